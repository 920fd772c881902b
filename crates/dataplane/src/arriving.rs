//! The content of a request, whatever brings it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BodyError;
#[cfg(feature = "http3")]
use crate::http3::Received;

/// On its way from the client.
#[derive(Debug)]
pub(crate) enum Arriving {
    /// Over TCP: HTTP/1.1 and HTTP/2.
    Tcp(Incoming),
    /// Over QUIC: HTTP/3.
    #[cfg(feature = "http3")]
    Quic(Box<Received>),
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
            Self::Tcp(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|_| BodyError::Broken),
            #[cfg(feature = "http3")]
            Self::Quic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Tcp(body) => body.is_end_stream(),
            #[cfg(feature = "http3")]
            Self::Quic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tcp(body) => body.size_hint(),
            #[cfg(feature = "http3")]
            Self::Quic(body) => body.size_hint(),
        }
    }
}
