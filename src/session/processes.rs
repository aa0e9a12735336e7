//! Ranks in several processes, through MPI.

use crate::base::{Error, Result};
use crate::device::Transport;

/// This process' rank, and the way to the others.
///
/// # Errors
/// No MPI in this build; a launcher that started another number of processes than the mesh has ranks.
pub(super) fn join(ranks: usize) -> Result<(usize, Box<dyn Transport>)> {
    let _ = ranks;
    Err(Error::usage("this build knows no MPI: build it with --features mpi"))
}
