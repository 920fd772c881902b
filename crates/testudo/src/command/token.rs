//! `testudo token explain`: why an access token exists.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;
use testudo_controlplane::{client::Connection, offline};

use super::{Invocation, account::segment, audit::shipped};
use crate::{
    cli::TokenCommand,
    failure::{Exit, Failure, Outcome},
    output::{field, say},
};

/// Longest token that is read.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// `testudo token …`.
pub async fn run(invocation: &Invocation, command: TokenCommand) -> Outcome {
    match command {
        TokenCommand::Explain { token, proofs } => {
            explain(invocation, &token, proofs.as_deref()).await
        }
    }
}

async fn explain(invocation: &Invocation, token: &str, proofs: Option<&Path>) -> Outcome {
    let id = match token {
        "-" => token_id(&read_token()?)?,
        token => token_id(token)?,
    };
    let connection = invocation.context.admin().await?;
    let path = format!("/api/v1/tokens/{}", segment(&id));
    let story = shipped(&connection, &path).await?;
    invocation.output.value(&story, in_words)?;
    match proofs {
        Some(directory) => write_proofs(&connection, &story, directory).await,
        None => Ok(()),
    }
}

fn read_token() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .take(MAX_TOKEN_BYTES)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn token_id(token: &str) -> Result<String, Failure> {
    offline::token_id(token).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            "this is neither an access token nor the id of one",
        )
        .help("give the token as the client got it, or its `jti` (`tok_…`)")
    })
}

/// The story, a line a step.
fn in_words(story: &Value) -> String {
    let who = match field(story, "/username") {
        name if name.is_empty() => field(story, "/subject"),
        name => name,
    };
    let mut lines = vec![format!(
        "{}: for {who}, given to `{}`, for {}",
        field(story, "/token"),
        field(story, "/client"),
        field(story, "/scope")
    )];
    for step in steps(story) {
        lines.push(format!(
            "  {}  leaf {}  {}",
            field(step, "/time"),
            field(step, "/index"),
            field(step, "/what")
        ));
    }
    lines.push(match field(story, "/standing").as_str() {
        "good" => format!("good until {}", field(story, "/expires_at")),
        standing => format!("{standing} at {}", field(story, "/ended_at")),
    });
    lines.join("\n")
}

fn steps(story: &Value) -> &[Value] {
    let steps = story.get("steps").and_then(Value::as_array);
    steps.map_or(&[], Vec::as_slice)
}

/// One file a step, in order.
async fn write_proofs(connection: &Connection, story: &Value, directory: &Path) -> Outcome {
    fs::create_dir_all(directory).map_err(|error| Failure::of_file("create", directory, &error))?;
    for (number, step) in steps(story).iter().enumerate() {
        let leaf = field(step, "/index");
        let path = format!("/api/v1/audit/events/{}/proof", segment(&leaf));
        let proof: Value = connection.get(&path).await?;
        let activity = field(step, "/event/activity");
        let file = directory.join(format!("{}-{activity}.proof", number + 1));
        fs::write(&file, field(&proof, "/proof"))
            .map_err(|error| Failure::of_file("write", &file, &error))?;
    }
    say(format!(
        "the proofs are in {}; anybody can check them with `testudo audit verify --proof`",
        directory.display()
    ));
    Ok(())
}
