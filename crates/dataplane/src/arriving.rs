//! The content of a request or an answer, whatever brings it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

#[cfg(feature = "http3")]
use crate::http3;
use crate::{body::BodyError, http2};

/// On its way here.
#[derive(Debug)]
pub(crate) enum Arriving {
    /// There is none, whatever follows the head.
    Nothing,
    /// From a client over HTTP/1.1 or HTTP/2, or from the local service over HTTP/1.1.
    Tcp(Incoming),
    /// From an upstream over HTTP/2.
    Answer(http2::Received),
    /// From a client over HTTP/3.
    #[cfg(feature = "http3")]
    Quic(Box<http3::Received>),
}

impl From<Incoming> for Arriving {
    fn from(body: Incoming) -> Self {
        Self::Tcp(body)
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Nothing => Poll::Ready(None),
            Self::Tcp(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|_| BodyError::Broken),
            Self::Answer(body) => Pin::new(body).poll_frame(context),
            #[cfg(feature = "http3")]
            Self::Quic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Tcp(body) => body.is_end_stream(),
            Self::Answer(body) => body.is_end_stream(),
            #[cfg(feature = "http3")]
            Self::Quic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Tcp(body) => body.size_hint(),
            Self::Answer(body) => body.size_hint(),
            #[cfg(feature = "http3")]
            Self::Quic(body) => body.size_hint(),
        }
    }
}
