//! How long a revocation takes until every one of many proxies enforces it, as the control plane hears it from them.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use tokio::task::LocalSet;

use crate::{
    Outcome,
    caller::{Origin, exchange},
    fleet::{Fleet, Placement},
    scenario::Bench,
    tokens::{Logins, address_of},
};

/// Pause between two revocations: each is a commit and a message to every proxy of its own.
const PAUSE: Duration = Duration::from_millis(50);
/// Time for the last one to arrive.
const PATIENCE: Duration = Duration::from_secs(3);
const METRIC: &str = "testudo_control_revocation_delivery_seconds";

/// Prints how many of the deliveries took how long.
pub(crate) fn run(bench: &Bench, proxies: usize, times: usize) -> Outcome {
    let folder = bench.subfolder("revocations")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::ANYWHERE)?;
    let others = fleet.join_sidecars(proxies.saturating_sub(3))?;
    let tokens = Logins::begin(&fleet)?.mint(times)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let page = LocalSet::new().block_on(&runtime, async {
        revoke_all(&fleet, &tokens).await?;
        tokio::time::sleep(PATIENCE).await;
        metrics(fleet.ops).await
    })?;
    let expected = (others.len() + 3) * tokens.len();
    Ok(table(&page, others.len() + 3, expected)?)
}

async fn revoke_all(fleet: &Fleet, tokens: &[String]) -> Outcome {
    let host = fleet.provider()?;
    let origin = Origin::new(address_of(&host)?, "localhost", Some(&fleet.ca), false)?;
    let mut stream = origin.connect().await?;
    let mut answer = Vec::new();
    for token in tokens {
        let form = format!("client_id=cli&token={token}");
        let request = format!(
            "POST /oauth2/revoke HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len(),
        );
        let status = exchange(&mut stream, request.as_bytes(), &mut answer)
            .await?
            .status;
        if status != 200 {
            return Err(format!("not revoked: status {status}").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn metrics(ops: SocketAddr) -> Outcome<String> {
    let mut stream = Origin::new(ops, "localhost", None, false)?
        .connect()
        .await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = Vec::new();
    exchange(&mut stream, request.as_bytes(), &mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

/// The buckets of the histogram, each with its share of all deliveries.
fn table(page: &str, proxies: usize, expected: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let value = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|text| text.parse::<f64>().ok())
    };
    let of = |suffix: &str| {
        let start = format!("{METRIC}_{suffix}");
        let lines = page.lines().filter(move |line| line.starts_with(&start));
        lines.collect::<Vec<_>>()
    };
    let count = of("count")
        .first()
        .and_then(|line| value(line))
        .unwrap_or_default();
    let sum = of("sum")
        .first()
        .and_then(|line| value(line))
        .unwrap_or_default();
    writeln!(
        out,
        "{count} of {expected} deliveries to {proxies} proxies; {:.1} ms each in the mean",
        sum / count * 1e3,
    )?;
    for line in of("bucket") {
        let bound = line.split('"').nth(1).unwrap_or_default();
        let share = value(line).unwrap_or_default() / count * 100.0;
        writeln!(out, "{share:>8.3} % within {bound} s")?;
    }
    out.flush()
}
