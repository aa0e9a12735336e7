//! Connections: how many, how long, and how they end.

use super::{App, router};
use crate::base::{Error, Result};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::future::{Either, join_all, select};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;
use tower::ServiceExt;

/// Of a request's head.
const MOST_HEADERS: usize = 100;
const MOST_HEAD: usize = 64 << 10;
/// How long cancelled answers may take to end.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Serves until `end` is ready; then answers that run may go on for the time of grace. A second `end` cuts that short.
///
/// # Errors
/// A listener that fails.
pub async fn serve<F: Future<Output = ()>>(
    app: Arc<App>,
    listener: TcpListener,
    mut end: impl FnMut() -> F,
) -> Result<()> {
    let router = router(app.clone());
    let closing = watch::Sender::new(false);
    {
        let mut ended = pin!(end());
        loop {
            match select(pin!(listener.accept()), &mut ended).await {
                Either::Left((Ok((stream, _)), _)) => accept(&app, stream, &router, &closing),
                Either::Left((Err(e), _)) => {
                    // Too many open files, or a client that left: what is open goes on.
                    app.log.warn("a connection could not be taken", &e);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Either::Right(_) => break,
            }
        }
    }
    drop(listener);
    app.closing.store(true, Ordering::Relaxed);
    let drained = async {
        join_all(app.slots.iter().map(|s| s.engine.drain())).await;
        closing.send_replace(true);
        until_closed(&app, Duration::MAX).await;
    };
    let (grace, again) = (pin!(tokio::time::sleep(app.config.grace)), pin!(end()));
    if let Either::Right(_) = select(pin!(drained), select(grace, again)).await {
        log::warn!("running answers are cut");
    }
    closing.send_replace(true);
    app.slots.iter().for_each(|s| s.engine.stop());
    until_closed(&app, LAST_MOMENT).await;
    Ok(())
}

async fn until_closed(app: &App, most: Duration) {
    let start = Instant::now();
    while app.connections.load(Ordering::Relaxed) > 0 && start.elapsed() < most {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Counts a connection as long as it lives.
struct Counted(Arc<App>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn accept(app: &Arc<App>, stream: TcpStream, router: &Router, closing: &watch::Sender<bool>) {
    let open = app.connections.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(app.clone());
    if open >= app.config.max_connections as u64 {
        // Dropped at once: who floods gets no memory.
        app.log.warn("too many connections", format!("{open} are open, more are closed"));
        return;
    }
    let _ = stream.set_nodelay(true);
    let (router, mut closing, patience) = (router.clone(), closing.subscribe(), app.config.io_timeout);
    tokio::spawn(async move {
        let counted = counted;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let router = router.clone();
            async move { router.oneshot(request.map(Body::new)).await }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEAD);
        let connection = builder.serve_connection(TokioIo::new(Patient::new(stream, patience)), service);
        let mut connection = pin!(connection);
        let told = pin!(async {
            let _ = closing.wait_for(|c| *c).await.is_ok();
        });
        let done = match select(connection.as_mut(), told).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = done {
            let timed_out = e.is_timeout() || std::error::Error::source(&e).is_some_and(|s| s.to_string() == SLOW);
            match timed_out {
                true => counted.0.log.warn("slow client", &e),
                // Clients come and go.
                false => log::debug!("a connection ended: {e}"),
            }
        }
    });
}

const SLOW: &str = "the reader is too slow";

/// A connection that ends when its reader takes nothing for a while.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Set while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Patient {
        Patient { stream, patience, timer: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.timer = None;
            return done;
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, SLOW))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, done)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watched(cx, done)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, done)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A listener on an address.
///
/// # Errors
/// A port that is taken, an address that is not this machine's.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener> {
    let failed = |e: io::Error| {
        Error::usage(format!("{host}:{port} cannot be served: {e}; choose another with --host and --port"))
    };
    TcpListener::bind((host, port)).await.map_err(failed)
}
