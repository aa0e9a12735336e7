//! `simulate --compare`: a measured trace beside the predicted one.

use crate::base::{Error, Result};
use crate::simulate::compare;
use crate::trace::Trace;
use std::path::Path;

/// Traces are read whole: no larger ones.
const MOST: u64 = 1 << 30;

pub fn against(predicted: &Trace, path: &Path) -> Result<compare::Comparison> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() || meta.len() > MOST {
        return Err(Error::file(path, "is no trace: a regular file of up to 1 GiB is read"));
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    Ok(compare::compare(predicted, &Trace::from_json(&text, &path.display().to_string())?))
}
