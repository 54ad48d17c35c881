//! Connections: counted, and given up where a client says nothing.
//!
//! The HTTP library bounds the time of a request's head once it knows which version of HTTP a client
//! speaks; a client that never says so much would hold its connection for ever. [`Watched`] gives the
//! first bytes a deadline of their own.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::limits::LimitSettings;

/// Bytes after which a client's version of HTTP is known: those of HTTP/2's preface. No request of
/// HTTP/1.1 has fewer.
const PREFACE: usize = 24;

/// Most bytes of a request's head over HTTP/1; the library answers 431 without a body beyond.
const MAX_HEAD: usize = 64 << 10;

/// Most requests of one connection over HTTP/2 at once.
const MAX_STREAMS: u32 = 64;

/// How often a silent connection over HTTP/2 is asked whether it lives, and how long it may think.
const PING: Duration = Duration::from_secs(20);

/// Serves until the handle says to stop.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    settings: &LimitSettings,
    permits: Arc<Semaphore>,
    handle: Handle<SocketAddr>,
    service: IntoMakeServiceWithConnectInfo<Router, SocketAddr>,
) -> io::Result<()> {
    let timeout = settings.head_timeout;
    let server = axum_server::from_tcp(listener)?.handle(handle);
    match tls {
        None => {
            let watched = |inner| WatchedAcceptor::new(inner, permits, timeout);
            let server = server.map(watched);
            bounded(server, timeout).serve(service).await
        }
        Some(config) => {
            let acceptor = RustlsAcceptor::new(config).handshake_timeout(timeout);
            let server = server.acceptor(WatchedAcceptor::new(acceptor, permits, timeout));
            bounded(server, timeout).serve(service).await
        }
    }
}

/// Bounds what the HTTP library waits for and keeps.
fn bounded<A>(mut server: Server<SocketAddr, A>, timeout: Duration) -> Server<SocketAddr, A> {
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32);
    server
}

/// Accepts as `inner` does, as long as there is a permit.
#[derive(Debug, Clone)]
pub struct WatchedAcceptor<A> {
    inner: A,
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl<A> WatchedAcceptor<A> {
    /// Connections get a permit for as long as they live; the first bytes may take `timeout`.
    pub fn new(inner: A, permits: Arc<Semaphore>, timeout: Duration) -> Self {
        Self {
            inner,
            permits,
            timeout,
        }
    }
}

impl<A, I, S> Accept<I, S> for WatchedAcceptor<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
    A::Stream: Send,
    A::Service: Send,
{
    type Stream = Watched<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            // The connection is closed: there is no room to say more.
            return Box::pin(async { Err(io::Error::other("too many connections")) });
        };
        let accepting = self.inner.accept(stream, service);
        let timeout = self.timeout;
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            let watched = Watched {
                stream,
                read: 0,
                deadline: Some(Box::pin(tokio::time::sleep(timeout))),
                _permit: permit,
            };
            Ok((watched, service))
        })
    }
}

/// A stream that ends with an error if its first bytes do not come in time.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    read: usize,
    /// `None` once enough has come.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.read = self.read.saturating_add(buffer.filled().len() - before);
            if self.read >= PREFACE {
                self.deadline = None;
            }
            return polled;
        }
        let late = match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(context).is_ready(),
            None => false,
        };
        if late {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
