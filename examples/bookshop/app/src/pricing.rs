//! The prices, over gRPC: one by one, as a stream of changes, and setting one.

use std::{collections::BTreeMap, net::Ipv4Addr};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    Error,
    wire::{
        Price, QuoteRequest, WatchRequest,
        pricing_server::{Pricing, PricingServer},
    },
};

/// Cents by book.
type Prices = BTreeMap<String, u32>;

/// The prices of the shop.
struct Shop(watch::Sender<Prices>);

/// Serves until the process ends.
///
/// # Errors
/// The port is taken.
pub fn serve(port: u16) -> Result<(), Error> {
    let prices =
        [("1", 1495), ("2", 1250), ("3", 1895)].map(|(book, cents)| (book.to_owned(), cents));
    let shop = Shop(watch::Sender::new(prices.into()));
    let server = Server::builder().add_service(PricingServer::new(shop));
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(server.serve((Ipv4Addr::LOCALHOST, port).into()))?)
}

#[tonic::async_trait]
impl Pricing for Shop {
    type WatchStream = ReceiverStream<Result<Price, Status>>;

    async fn quote(&self, request: Request<QuoteRequest>) -> Result<Response<Price>, Status> {
        let QuoteRequest { book } = request.into_inner();
        match self.0.borrow().get(&book) {
            Some(&cents) => Ok(Response::new(Price { book, cents })),
            None => Err(unknown(&book)),
        }
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (client, stream) = mpsc::channel(1);
        tokio::spawn(tell_changes(self.0.subscribe(), client));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn reprice(&self, request: Request<Price>) -> Result<Response<Price>, Status> {
        let price = request.into_inner();
        let is_known = self
            .0
            .send_if_modified(|prices| match prices.get_mut(&price.book) {
                Some(cents) => {
                    *cents = price.cents;
                    true
                }
                None => false,
            });
        if is_known {
            Ok(Response::new(price))
        } else {
            Err(unknown(&price.book))
        }
    }
}

/// Tells a client what it does not know yet, until it is gone.
async fn tell_changes(
    mut prices: watch::Receiver<Prices>,
    client: mpsc::Sender<Result<Price, Status>>,
) {
    let mut told = Prices::new();
    loop {
        let now = prices.borrow_and_update().clone();
        for (book, &cents) in now
            .iter()
            .filter(|(book, cents)| told.get(*book) != Some(*cents))
        {
            let book = book.clone();
            if client.send(Ok(Price { book, cents })).await.is_err() {
                return;
            }
        }
        told = now;
        tokio::select! {
            changed = prices.changed() => if changed.is_err() { return },
            () = client.closed() => return,
        }
    }
}

fn unknown(book: &str) -> Status {
    Status::not_found(format!("there is no book {book}"))
}
