//! In the place of `http3` when it is not compiled in: there is nothing to serve.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use testudo_runtime::DrainWatch;

use super::GatewayWorker;
use crate::slots::ConnectionSlots;

/// There is none.
pub(super) enum Http3 {}

impl Http3 {
    pub(super) fn alternative(&self) -> Option<HeaderValue> {
        match *self {}
    }
}

impl GatewayWorker {
    pub(super) async fn serve_http3(
        self: Arc<Self>,
        http3: Arc<Http3>,
        _: ConnectionSlots,
        _: DrainWatch,
        _: Duration,
    ) {
        match *http3 {}
    }
}
