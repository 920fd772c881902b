//! `testudo signal …`: what is told to whom.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows, segment},
};
use crate::{
    cli::{SignalCommand, StreamArgument},
    failure::Outcome,
    output::table,
};

const STREAMS: &str = "/api/v1/signal-streams";

/// `testudo signal …`.
pub async fn run(invocation: &Invocation, command: SignalCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    let of = |stream: &str| format!("{STREAMS}/{}", segment(stream));
    match command {
        SignalCommand::List(page) => {
            let streams: Value = connection.get(&paged(STREAMS, &page)).await?;
            invocation.output.list(&streams, |streams| {
                let fields = [
                    "/id",
                    "/receiver",
                    "/endpoint_url",
                    "/status",
                    "/waiting",
                    "/last_delivery/at",
                    "/last_delivery/failure",
                ];
                table(
                    &[
                        "STREAM",
                        "RECEIVER",
                        "PUSHED TO",
                        "STATUS",
                        "WAITING",
                        "LAST DELIVERY",
                        "FAILURE",
                    ],
                    &rows(streams, &fields),
                )
            })?;
        }
        SignalCommand::Show(StreamArgument { stream }) => {
            let shown: Value = connection.get(&of(&stream)).await?;
            let pretty = |shown: &Value| serde_json::to_string_pretty(shown).unwrap_or_default();
            invocation.output.value(&shown, pretty)?;
        }
        SignalCommand::Disable(StreamArgument { stream }) => {
            let path = format!("{}/disable", of(&stream));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("nothing is sent over {stream} any more");
            invocation.output.done(&changed, done)?;
        }
        SignalCommand::Enable(StreamArgument { stream }) => {
            let path = format!("{}/enable", of(&stream));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("what happens from now on is sent over {stream}");
            invocation.output.done(&changed, done)?;
        }
        SignalCommand::Delete(StreamArgument { stream }) => {
            let deleted: Value = connection.call("DELETE", &of(&stream), &json!({})).await?;
            let done = format!("{stream} is deleted, and what waited for its receiver");
            invocation.output.done(&deleted, done)?;
        }
    }
    Ok(())
}
