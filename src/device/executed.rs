//! What a device was told to do, by its commands alone: grids that were dispatched, parameter blocks as they were uploaded, ranges
//! that were bound, bytes that were copied. No expression of a plan has a part in it, so that counts of a plan, and of a
//! model's shape, can be held against it.

/// Counts of one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Executed {
    pub dispatches: usize,
    /// Of all grids: workgroups × their sizes.
    pub invocations: u64,
    /// Two for each multiplication of a matrix product, by the sizes in its parameter block.
    pub product_flops: u64,
    /// Of the ranges that dispatches were bound to: more than these they neither read nor write.
    pub bound_bytes: u64,
    /// Messages to other ranks.
    pub copies: usize,
    pub copied_bytes: u64,
}

impl Executed {
    pub fn add(&mut self, more: Executed) {
        *self = Executed {
            dispatches: self.dispatches + more.dispatches,
            invocations: self.invocations + more.invocations,
            product_flops: self.product_flops + more.product_flops,
            bound_bytes: self.bound_bytes + more.bound_bytes,
            copies: self.copies + more.copies,
            copied_bytes: self.copied_bytes + more.copied_bytes,
        };
    }

    /// A message of so many bytes.
    pub(super) fn message(bytes: u64) -> Executed {
        Executed { copies: usize::from(bytes > 0), copied_bytes: bytes, ..Executed::default() }
    }
}
