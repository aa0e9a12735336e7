//! From a device to the host.

use super::Gpu;
use crate::base::{DeviceFault, Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

type Mapped = std::result::Result<(), wgpu::BufferAsyncError>;

/// A result that a callback brings.
#[derive(Default)]
struct Slot {
    result: Option<Mapped>,
    waker: Option<Waker>,
}

#[derive(Clone, Default)]
struct Promise(Arc<Mutex<Slot>>);

impl Future for Promise {
    type Output = Mapped;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Mapped> {
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
    /// The first `bytes` of a mappable buffer, once all submitted work is done.
    pub(super) async fn map_read(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(vec![]);
        }
        let promise = Promise::default();
        let done = promise.clone();
        buffer.map_async(wgpu::MapMode::Read, 0..bytes.next_multiple_of(4), move |result| {
            let mut slot = done.0.lock().unwrap_or_else(|e| e.into_inner());
            slot.result = Some(result);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        });
        // Native back ends call back from inside a poll; browsers do it by themselves.
        if let Err(e) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            return Err(Error::device(DeviceFault::Lost, &self.report.name, format!("did not finish: {e}")));
        }
        let result = promise.await;
        self.check()?;
        let failed = |e: String| Error::device(DeviceFault::Lost, &self.report.name, format!("a result could not be read: {e}"));
        result.map_err(|e| failed(e.to_string()))?;
        let range = buffer.get_mapped_range(0..bytes.next_multiple_of(4)).map_err(|e| failed(format!("{e:?}")))?;
        let out = range[..bytes as usize].to_vec();
        drop(range);
        buffer.unmap();
        Ok(out)
    }
}
