//! From a device to the host.

use super::Gpu;
use crate::base::{DeviceFault, Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// A result that a callback brings.
struct Slot<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    /// The promise, and what keeps it.
    fn new() -> (Promise<T>, impl FnOnce(T)) {
        let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
        let kept = slot.clone();
        let keep = move |result| {
            let mut slot = kept.lock().unwrap_or_else(|e| e.into_inner());
            slot.result = Some(result);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        };
        (Promise(slot), keep)
    }
}

impl<T> Future for Promise<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Gpu {
    /// Native back ends call back from inside a poll; browsers do it by themselves, and may not be waited for.
    pub(super) fn poll(&self) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        polled
            .map(|_| ())
            .map_err(|e| Error::device(DeviceFault::Lost, &self.report.name, format!("did not finish: {e}")))
    }

    /// Until all submitted work is done.
    pub async fn done(&self) -> Result<()> {
        let (promise, keep) = Promise::new();
        self.queue.on_submitted_work_done(move || keep(()));
        self.poll()?;
        promise.await;
        self.check()
    }

    /// The first `bytes` of a mappable buffer, once all submitted work is done.
    pub(super) async fn map_read(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(vec![]);
        }
        let (promise, keep) = Promise::new();
        buffer.map_async(wgpu::MapMode::Read, 0..bytes.next_multiple_of(4), keep);
        // Whoever waits may go: a buffer that nobody unmaps takes no more copies.
        let mut mapping = Mapping { buffer, ends: true };
        self.poll()?;
        let result = promise.await;
        mapping.ends = result.is_ok();
        let failed = |e: String| {
            Error::device(
                DeviceFault::Lost,
                &self.report.name,
                format!("the device was lost: a result could not be read: {e}"),
            )
        };
        // A fault of another kind is told first.
        self.check().and_then(|()| {
            result.clone().map_err(|e| failed(e.to_string()))?;
            let range = buffer.get_mapped_range(0..bytes.next_multiple_of(4)).map_err(|e| failed(format!("{e:?}")))?;
            Ok(range[..bytes as usize].to_vec())
        })
    }
}

/// A buffer that is mapped, or will be: unmapped at the end, whatever happened.
struct Mapping<'a> {
    buffer: &'a wgpu::Buffer,
    /// Not where mapping has failed, for then nothing is mapped.
    ends: bool,
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        if self.ends {
            self.buffer.unmap();
        }
    }
}
