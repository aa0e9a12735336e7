//! Ranks in several processes, on one host or many, through MPI.

use crate::base::Result;
use crate::device::Transport;

/// This process' rank, and the way to the others.
///
/// # Errors
/// No MPI in this build; a launcher that started another number of processes than the mesh has ranks.
#[cfg(not(feature = "mpi"))]
pub(super) fn join(_: usize) -> Result<(usize, Box<dyn Transport>)> {
    Err(crate::base::Error::usage(
        "an MPI launcher started this program, but this build knows no MPI: build it with --features mpi",
    ))
}

#[cfg(feature = "mpi")]
pub(super) use with_mpi::join;

#[cfg(feature = "mpi")]
mod with_mpi {
    use super::*;
    use crate::base::Error;
    use crate::device::Post;
    use mpi::environment::Universe;
    use mpi::ffi;
    use mpi::topology::Communicator;
    use std::mem::MaybeUninit;
    use std::time::{Duration, Instant};

    /// How long a message may take before its peer counts as gone: longer than any step of a slow device.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The world, and the sends that have not left yet.
    struct Mpi {
        universe: Option<Universe>,
        world: ffi::MPI_Comm,
        pending: Vec<(ffi::MPI_Request, Post, Vec<u8>)>,
        closed: bool,
    }

    pub fn join(ranks: usize) -> Result<(usize, Box<dyn Transport>)> {
        let universe = mpi::initialize().ok_or_else(|| Error::usage("MPI was started before: one model a process"))?;
        let (size, rank) = (universe.world().size() as usize, universe.world().rank() as usize);
        // SAFETY: constants that the library defines for the life of the process.
        let (world, returned) = unsafe { (ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) };
        // SAFETY: MPI is initialised, and both handles are its own. Errors come back instead of ending the process.
        check(unsafe { ffi::MPI_Comm_set_errhandler(world, returned) }, "MPI cannot return errors")?;
        let mpi = Mpi { universe: Some(universe), world, pending: vec![], closed: false };
        if size != ranks {
            return Err(Error::usage(format!(
                "the launcher started {size} processes, the mesh has {ranks} ranks: start mpirun -n {ranks}"
            )));
        }
        Ok((rank, Box::new(mpi)))
    }

    fn check(code: std::os::raw::c_int, what: &str) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(Error::usage(format!("{what}: MPI error {code}"))) }
    }

    impl Mpi {
        /// Whether a request is done.
        fn done(request: &mut ffi::MPI_Request, what: &str) -> Result<bool> {
            let (mut flag, mut status) = (0, MaybeUninit::<ffi::MPI_Status>::uninit());
            // SAFETY: the request is one that MPI gave, and both places live through the call.
            check(unsafe { ffi::MPI_Test(request, &mut flag, status.as_mut_ptr()) }, what)?;
            Ok(flag != 0)
        }

        fn wait(mut request: ffi::MPI_Request, what: &str) -> Result<()> {
            let start = Instant::now();
            let mut tries = 0u32;
            while !Mpi::done(&mut request, what)? {
                if start.elapsed() > PATIENCE {
                    return Err(Error::usage(format!(
                        "{what}: nothing for {} s, the other rank seems gone",
                        PATIENCE.as_secs()
                    )));
                }
                tries += 1;
                // Near ranks answer within microseconds, slow devices take their time.
                if tries > 1000 { std::thread::sleep(Duration::from_micros(50)) } else { std::hint::spin_loop() }
            }
            Ok(())
        }
    }

    /// Bytes of a message, and its tag, as MPI counts them.
    fn sizes(post: Post) -> Result<(i32, i32)> {
        let bytes = i32::try_from(post.bytes)
            .map_err(|_| Error::usage(format!("a message of {} bytes is beyond what MPI counts", post.bytes)))?;
        // MPI promises tags up to 32767 only. Messages between two ranks keep their order, so tags may repeat.
        Ok((bytes, (post.tag % 32749) as i32))
    }

    impl Transport for Mpi {
        fn send(&mut self, post: Post, bytes: Vec<u8>) -> Result<()> {
            let (count, tag) = sizes(post)?;
            let mut request = MaybeUninit::<ffi::MPI_Request>::uninit();
            let what = format!("rank {} cannot send to rank {}", post.from, post.to);
            // SAFETY: the bytes are kept in `pending`, unmoved on the heap, until MPI is done with them.
            let code = unsafe {
                ffi::MPI_Isend(
                    bytes.as_ptr().cast(),
                    count,
                    ffi::RSMPI_UINT8_T,
                    post.to as i32,
                    tag,
                    self.world,
                    request.as_mut_ptr(),
                )
            };
            check(code, &what)?;
            // SAFETY: MPI_Isend succeeded and wrote it.
            self.pending.push((unsafe { request.assume_init() }, post, bytes));
            Ok(())
        }

        fn receive(&mut self, post: Post) -> Result<Vec<u8>> {
            let (count, tag) = sizes(post)?;
            let mut bytes = vec![0u8; post.bytes];
            let mut request = MaybeUninit::<ffi::MPI_Request>::uninit();
            let what = format!("rank {} waits for rank {}", post.to, post.from);
            // SAFETY: the buffer outlives the request: `wait` returns when MPI is done, or this process ends.
            let code = unsafe {
                ffi::MPI_Irecv(
                    bytes.as_mut_ptr().cast(),
                    count,
                    ffi::RSMPI_UINT8_T,
                    post.from as i32,
                    tag,
                    self.world,
                    request.as_mut_ptr(),
                )
            };
            check(code, &what)?;
            // SAFETY: MPI_Irecv succeeded and wrote it.
            if let Err(e) = Mpi::wait(unsafe { request.assume_init() }, &what) {
                // MPI may still write there.
                std::mem::forget(bytes);
                return Err(e);
            }
            Ok(bytes)
        }

        fn finish(&mut self) -> Result<()> {
            for (request, post, bytes) in self.pending.drain(..) {
                let what = format!("rank {} sends to rank {}", post.from, post.to);
                if let Err(e) = Mpi::wait(request, &what) {
                    std::mem::forget(bytes);
                    return Err(e);
                }
            }
            Ok(())
        }

        fn close(&mut self) -> Result<()> {
            self.finish()?;
            self.closed = true;
            Ok(())
        }

        fn name(&self) -> String {
            "MPI".into()
        }
    }

    impl Drop for Mpi {
        fn drop(&mut self) {
            // After an error the others may never come to an end together: the launcher sees this process leave
            // without taking its leave, and stops them.
            if !self.closed {
                std::mem::forget(self.universe.take());
                std::mem::forget(std::mem::take(&mut self.pending));
            }
        }
    }
}
