//! The README's tour, command by command: what it prints is what people get.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Output},
};

use crate::{
    fleet::{Fleet, Folder, TESTUDO, bookshop_binary, repository},
    roles::Apart,
};

/// A command of the tour with the output the README shows for it; empty if it shows none.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    shown: String,
}

#[test]
fn the_tour_in_the_readme_goes_as_the_readme_says() {
    follow(&Folder::bookshop().up());
}

#[test]
fn the_tour_goes_the_same_with_every_role_in_its_own_process() {
    follow(&Apart::bookshop().fleet);
}

/// Runs the tour in `fleet`.
fn follow(fleet: &Fleet) {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (aliases, steps) = (aliases(&readme), steps(&readme));
    assert_eq!(aliases.lines().count(), 3, "{aliases}");
    assert!(
        steps.len() >= 20,
        "the tour has only {} commands: is its marker gone?",
        steps.len()
    );

    let walk = Walk::prepare(fleet, &aliases);
    let mut decision = None;
    for step in &steps {
        let command = with_decision(&walk.local(&step.command), decision.as_deref());
        let output = walk.run(&command);
        let (said, complaints) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "$ {command}\n{said}\n{complaints}");
        // Talk goes to standard error, data to standard output; the terminal shows both.
        let seen = [said.trim(), complaints.trim()]
            .map(str::to_owned)
            .into_iter()
            .filter(|part| !part.is_empty());
        let seen = seen.collect::<Vec<_>>().join("\n");
        if !step.shown.is_empty() {
            assert!(
                matches(&walk.local(&step.shown), &seen),
                "$ {command}\n--- the README shows ---\n{}\n--- it prints ---\n{seen}",
                step.shown
            );
        }
        decision = decision_in(&seen).or(decision);
    }
}

/// A folder that looks like a clone with a release build, and a shell in it.
struct Walk<'a> {
    fleet: &'a Fleet,
    clone: tempfile::TempDir,
    aliases: String,
}

impl<'a> Walk<'a> {
    fn prepare(fleet: &'a Fleet, aliases: &str) -> Self {
        let clone = tempfile::tempdir().unwrap();
        fs::create_dir_all(clone.path().join("examples")).unwrap();
        fs::create_dir_all(clone.path().join("target/release")).unwrap();
        symlink(fleet.folder.path(), clone.path().join("examples/bookshop")).unwrap();
        symlink(TESTUDO, clone.path().join("target/release/testudo")).unwrap();
        symlink(
            bookshop_binary(),
            clone.path().join("target/release/bookshop"),
        )
        .unwrap();
        let mut walk = Self {
            fleet,
            clone,
            aliases: String::new(),
        };
        walk.aliases = walk.local(aliases);
        walk
    }

    /// The README's port and folder as they are here.
    fn local(&self, text: &str) -> String {
        let port = self.fleet.address("/gateway").port();
        let ledger = self.clone.path().join("ledger");
        text.replace(":8443", &format!(":{port}"))
            .replace("/tmp/ledger", ledger.to_str().unwrap())
    }

    fn run(&self, command: &str) -> Output {
        let mut shell = Command::new("bash");
        shell
            .args([
                "-c",
                &format!("shopt -s expand_aliases\n{}\n{command}", self.aliases),
            ])
            .current_dir(self.clone.path())
            // A proxy for the internet is none for this machine.
            .env("NO_PROXY", "*");
        for (name, value) in self.fleet.folder.command(&[]).get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell.output().unwrap()
    }
}

/// The `sh` block with the aliases, before the tour.
fn aliases(readme: &str) -> String {
    let (before, _) = readme.split_once("<!-- tour:").expect("the tour's marker");
    let (_, block) = before.rsplit_once("```sh\n").expect("the aliases");
    block.split_once("```").unwrap().0.to_owned()
}

/// The commands between the marker and the next chapter.
fn steps(readme: &str) -> Vec<Step> {
    let (_, tour) = readme.split_once("<!-- tour:").expect("the tour's marker");
    let tour = tour.split("\n## ").next().unwrap();
    let blocks = tour
        .split("```console\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0);
    let mut steps: Vec<Step> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                shown: String::new(),
            }),
            (None, Some(step)) => step.shown.push_str(&format!("{line}\n")),
            (None, None) => panic!("a console block starts with output: {line}"),
        }
    }
    steps
}

/// Whether `seen` is what `shown` says: `…` stands for anything, and ids differ from run to run.
fn matches(shown: &str, seen: &str) -> bool {
    let shown = with_decision(shown.trim(), Some("…"));
    let mut pieces = shown.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| seen.strip_prefix(first)) else {
        return false;
    };
    let mut last = "";
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else {
            return false;
        };
        (rest, last) = (after, piece);
    }
    rest.is_empty() || (shown.contains('…') && (last.is_empty() || rest.ends_with(last)))
}

/// The first decision id in a text.
fn decision_in(text: &str) -> Option<String> {
    let id = text.split("dec_").nth(1)?.get(..26)?;
    id.bytes()
        .all(|byte| byte.is_ascii_alphanumeric())
        .then(|| format!("dec_{id}"))
}

/// The text with its decision ids replaced.
fn with_decision(text: &str, by: Option<&str>) -> String {
    match (decision_in(text), by) {
        (Some(id), Some(by)) => text.replace(&id, by),
        _ => text.to_owned(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_shown_must_be_seen() {
    assert!(matches("200 … 429 …\n", "200 200 429 200"));
    assert!(!matches("200 … 429 …", "200 200 200"));
    assert!(matches("a…}", "a{}}"));
    assert!(!matches("a…}", "a{}} and more"));
    assert!(!matches("a", "ab"));
    assert!(matches(
        "x dec_01M81HMGYM22EDG0E1P8MDBNEY y",
        "x dec_01M81HMFMF1K14HERXNGRFECTE y"
    ));
    assert!(!matches(
        "x dec_01M81HMGYM22EDG0E1P8MDBNEY y",
        "x dec_01M81HMFMF1K14HERXNGRFECTE z"
    ));
}

#[test]
fn steps_are_commands_with_their_output() {
    let readme = "```console\n$ before\n```\n<!-- tour: -->\n```console\n$ a\nb\nc\n$ d\n```\n## Next\n```console\n$ e\n```";
    let step = |command: &str, shown: &str| Step {
        command: command.to_owned(),
        shown: shown.to_owned(),
    };
    assert_eq!(steps(readme), [step("a", "b\nc\n"), step("d", "")]);
}
