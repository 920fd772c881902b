//! Port 8080: sends browsers to HTTPS and does nothing else.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use testudo_model::snapshot::TransferRules;
use testudo_runtime::DrainWatch;

use crate::{
    body::AnswerBody,
    framing,
    listener::{self, Listeners},
    respond,
    routes::normalise_host,
    serve::{self, Activity, Protocol},
    slots::ConnectionSlots,
};

/// What the redirect listener is made of.
#[derive(Debug)]
pub struct Redirect {
    /// Where it listens; one socket.
    pub listen: Listeners,
    /// Where HTTPS is, as clients see it.
    pub https_port: u16,
    /// Public names of the gateway, at least one. A request for another name is sent to the first: whoever
    /// makes a browser send a strange `Host` does not choose where it goes.
    pub names: Vec<String>,
}

/// Serves until the drain.
pub(crate) async fn run(
    redirect: Redirect,
    slots: ConnectionSlots,
    drain: DrainWatch,
    deadline: Duration,
) {
    let Redirect {
        listen,
        https_port,
        names,
    } = redirect;
    let Some(seat) = listen.into_seats().into_iter().next() else {
        return;
    };
    let names = Arc::new(names);
    listener::accept(
        seat,
        slots,
        drain,
        deadline,
        move |stream, _peer: SocketAddr, drain| {
            let activity = Activity::new();
            let (requests, names) = (Arc::clone(&activity), Arc::clone(&names));
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let _active = requests.begin();
                    let (head, _) = request.into_parts();
                    std::future::ready(Ok::<_, Infallible>(answer(&head, https_port, &names)))
                });
                serve::connection(
                    stream,
                    Protocol::Http1,
                    service,
                    TransferRules::default(),
                    activity,
                    drain,
                    std::future::pending(),
                )
                .await;
            }
        },
    )
    .await;
}

fn answer(head: &Parts, https_port: u16, names: &[String]) -> Response<AnswerBody> {
    let target = match framing::admit(head) {
        Ok(target) => target,
        Err(rejection) => return respond::refuse(&rejection, head.version),
    };
    let asked = normalise_host(&target.authority);
    let known = names
        .iter()
        .find(|name| normalise_host(name) == asked)
        .or(names.first());
    let port = if https_port == 443 {
        String::new()
    } else {
        format!(":{https_port}")
    };
    let location = known
        .map(|name| format!("https://{name}{port}{}", target.path_and_query()))
        .and_then(|location| HeaderValue::from_str(&location).ok());
    let mut response = Response::new(AnswerBody::empty());
    match location {
        Some(location) => {
            // 308 keeps the method; a client that sent a secret in plaintext learns nothing new here.
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(host: &str, path: &str) -> Option<String> {
        let request = Request::builder()
            .uri(path)
            .header("host", host)
            .body(())
            .unwrap();
        let names = ["shop.example".to_owned(), "www.shop.example".to_owned()];
        let response = answer(&request.into_parts().0, 8443, &names);
        response
            .headers()
            .get(header::LOCATION)
            .map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn browsers_are_sent_to_the_same_place_over_https() {
        assert_eq!(
            location("WWW.shop.example:8080", "/a?b=c").unwrap(),
            "https://www.shop.example:8443/a?b=c"
        );
    }

    #[test]
    fn a_strange_host_does_not_choose_where_to_go() {
        assert_eq!(
            location("evil.example", "/a").unwrap(),
            "https://shop.example:8443/a"
        );
        assert_eq!(location("evil.example", "/a/../b"), None);
    }
}
