//! What holds of every dispatch of a plan at its bounds: kernels run unchecked because of it.
//!
//! - Each argument lies within its buffer, where bindings may begin, and is no larger than may be bound.
//! - No two arguments share bytes of which one is written.
//! - Rows, tiles and outputs, as the kernel's numbers say, end within what is bound ([`reach`](crate::kernel::reach)).
//! - Grids are within the device's limits.
//! - Loops of a software adapter end before it ends them ([`turns`](crate::kernel::turns)).

use super::{Arg, Dispatch, Param, Plan, Role};
use crate::base::{AdapterKind, Caps, DeviceFault, Error, Expr, Result};
use crate::kernel::{reach, turns};

/// Checks a plan for a device.
///
/// # Errors
/// What does not hold, with the op and the numbers.
pub fn verify(plan: &Plan, caps: &Caps) -> Result<()> {
    for d in &plan.dispatches {
        let wrong = |what: String| {
            Error::device(DeviceFault::Limit, plan.kernels[d.kernel].name(), format!("\"{}\" {what}", d.label))
        };
        ranges(plan, d, caps)
            .and_then(|_| alone(d))
            .and_then(|_| within(plan, d))
            .and_then(|_| limits(plan, d, caps))
            .map_err(wrong)?;
    }
    Ok(())
}

type Found = std::result::Result<(), String>;

/// Arguments within their buffers.
fn ranges(plan: &Plan, d: &Dispatch, caps: &Caps) -> Found {
    for a in &d.args {
        let buffer = plan.buffer(a.buffer);
        if buffer.texels {
            continue;
        }
        if a.offset.checked_add(a.bytes).is_none_or(|end| end > buffer.bytes) {
            return Err(format!(
                "binds {} from {} of {} as {}: it ends at {}",
                a.bytes, a.offset, buffer.label, a.name, buffer.bytes
            ));
        }
        if !a.offset.is_multiple_of(caps.storage_align as u64) {
            return Err(format!("binds {} at {}, not a multiple of {}", a.name, a.offset, caps.storage_align));
        }
        if a.bytes > caps.binding_bytes {
            return Err(format!("binds {} bytes as {}, this device at most {}", a.bytes, a.name, caps.binding_bytes));
        }
    }
    let storage = d.args.iter().filter(|a| !plan.buffer(a.buffer).texels).count();
    if storage > caps.storage_buffers as usize {
        return Err(format!("binds {storage} buffers, this device at most {}", caps.storage_buffers));
    }
    Ok(())
}

/// No argument shares bytes with one that is written.
fn alone(d: &Dispatch) -> Found {
    let meet =
        |a: &Arg, b: &Arg| a.buffer == b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
    for (i, a) in d.args.iter().enumerate() {
        if let Some(b) = d.args[..i].iter().find(|b| (a.write || b.write) && meet(a, b)) {
            return Err(format!("binds one buffer as {} and {}, and writes it", b.name, a.name));
        }
    }
    Ok(())
}

fn number(d: &Dispatch, name: &str) -> Expr {
    match d.params.iter().find(|p| p.0 == name) {
        Some((_, Param::U(e))) => e.clone(),
        _ => Expr::new(0),
    }
}

/// What the kernel's numbers reach lies within what is bound.
fn within(plan: &Plan, d: &Dispatch) -> Found {
    for a in &d.args {
        let Some(end) = reach::reach(&plan.kernels[d.kernel], &a.name, &|name| number(d, name)) else { continue };
        let buffer = plan.buffer(a.buffer);
        // Elements that are narrower than words, or blocks, are weights: what they hold is checked where they are placed.
        if matches!(buffer.role, Role::Weight { .. }) || buffer.texels {
            continue;
        }
        if end.bound() > a.bytes / 4 {
            return Err(format!("reaches element {} of {}, which has {}", end.bound(), a.name, a.bytes / 4));
        }
    }
    Ok(())
}

fn limits(plan: &Plan, d: &Dispatch, caps: &Caps) -> Found {
    let ends = d.grid.each_ref().map(|c| c.n.bound().div_ceil(c.by as u64));
    let folded = ends[1] == 1 && ends[0] <= (caps.grid as u64) * (caps.grid as u64);
    if ends[1..].iter().any(|n| *n > caps.grid as u64) || (ends[0] > caps.grid as u64 && !folded) {
        return Err(format!("takes {ends:?} workgroups, this device {} along an axis", caps.grid));
    }
    if caps.kind == AdapterKind::Software {
        let most = turns::turns(&plan.kernels[d.kernel], |name| number(d, name).bound());
        if let Some(most) = most.filter(|n| *n > turns::MOST) {
            return Err(format!(
                "takes up to {most} turns of its loops: software adapters end them after {}",
                turns::MOST
            ));
        }
    }
    Ok(())
}
