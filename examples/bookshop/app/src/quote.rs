//! What another service asks of the prices: a call like any other, over gRPC.

use std::{env, time::Duration};

use serde_json::json;
use tonic::{
    Code, Request, Status,
    transport::{Endpoint, Uri},
};

use crate::{
    service::{Answer, Call},
    wire::{Price, QuoteRequest, pricing_client::PricingClient},
};

const PRICING: &str = "http://pricing";
const DEADLINE: Duration = Duration::from_secs(5);

/// The price of a book in cents.
///
/// # Errors
/// What to answer instead: there is no such book, or the prices cannot be asked.
pub fn cents(call: &Call, book: &str) -> Result<u32, Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let price = match runtime {
        Ok(runtime) => runtime.block_on(ask(call, book)),
        Err(error) => Err(Status::internal(error.to_string())),
    };
    price.map(|price| price.cents).map_err(|status| {
        let error = json!({ "error": status.message(), "grpc_status": status.code() as i32 });
        Answer(http_status(status.code()), error)
    })
}

/// As with every other call, `HTTP_PROXY` decides how the service is reached; gRPC keeps its name as the authority.
#[allow(
    clippy::disallowed_methods,
    reason = "the example reads its environment like any program"
)]
async fn ask(call: &Call, book: &str) -> Result<Price, Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let way = env::var("HTTP_PROXY").unwrap_or_else(|_| PRICING.to_owned());
    let channel = Endpoint::from_shared(way)
        .map_err(unreachable)?
        .origin(Uri::from_static(PRICING))
        .timeout(DEADLINE)
        .connect()
        .await
        .map_err(unreachable)?;
    let mut request = Request::new(QuoteRequest {
        book: book.to_owned(),
    });
    if let Some(Ok(trace)) = call.traceparent.as_ref().map(|trace| trace.parse()) {
        request.metadata_mut().insert("traceparent", trace);
    }
    let price = PricingClient::new(channel).quote(request).await?;
    Ok(price.into_inner())
}

const fn http_status(code: Code) -> u16 {
    match code {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::ResourceExhausted => 429,
        Code::DeadlineExceeded => 504,
        _ => 502,
    }
}
