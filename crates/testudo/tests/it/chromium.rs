//! A real browser: headless Chromium that trusts the CA of a fleet as if its owner had installed it.
//!
//! Playwright speaks to it in `chromium/driver.mjs`; here are the commands, and the page as people and the browser
//! see it. `./test.sh` installs both.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{fleet::Process, installed::tool};

/// A browser with one window.
pub struct Chromium {
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    process: Process,
    _home: TempDir,
}

/// What a window is like.
#[derive(Clone, Copy)]
pub struct Window {
    pub javascript: bool,
    pub dark: bool,
    pub size: (u32, u32),
}

/// A desktop's window.
pub const WINDOW: Window = Window {
    javascript: true,
    dark: false,
    size: (1280, 800),
};

/// The page a window shows.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub url: String,
    pub title: String,
    pub language: String,
    /// What can be read on it.
    pub text: String,
    /// What a screen reader announces at once.
    pub alert: Option<String>,
    pub fields: Vec<Field>,
    /// Of the answer the page came in; names in lower case.
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub cookies: Vec<Cookie>,
    /// What the window's authenticator keeps.
    pub passkeys: Vec<Value>,
    /// Addresses of what its frames show.
    pub frames: Vec<String>,
    /// Errors and warnings on the console since the answer before: broken rules of the content security policy,
    /// scripts, styles.
    pub complaints: Vec<String>,
    /// The least contrast of a text and of a field's border (WCAG 2.2 sections 1.4.3 and 1.4.11).
    pub text_contrast: f64,
    pub border_contrast: f64,
    /// Whether one must scroll sideways.
    pub overflows: bool,
}

/// A visible field of a form.
#[derive(Debug, Deserialize)]
pub struct Field {
    pub name: String,
    pub kind: String,
    /// Text of the label that belongs to it.
    pub label: String,
    pub autocomplete: String,
    pub value: String,
    pub focused: bool,
    pub invalid: bool,
}

/// A cookie as the browser keeps it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    pub name: String,
    pub domain: String,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: String,
    /// -1: until the browser closes.
    pub expires: f64,
}

impl Page {
    /// The field of a name.
    pub fn field(&self, name: &str) -> &Field {
        let found = self.fields.iter().find(|field| field.name == name);
        found.unwrap_or_else(|| panic!("no field {name}: {self:#?}"))
    }
}

impl Chromium {
    /// Starts it with the CA file of a fleet among the CAs it trusts, or without.
    pub fn start(ca: Option<&Path>) -> Self {
        Self::trusting(&ca.into_iter().collect::<Vec<_>>())
    }

    /// The same with several.
    pub fn trusting(authorities: &[&Path]) -> Self {
        let home = TempDir::new().unwrap();
        if !authorities.is_empty() {
            trust(home.path(), authorities);
        }
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/chromium/driver.mjs");
        let mut child = Command::new("node")
            .arg(driver)
            .arg(tool(&[".tools/node_modules/playwright-core/index.mjs"]))
            .arg(tool(&["/usr/bin/chromium"]))
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            commands: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            process: Process(child),
            _home: home,
        }
    }

    /// Opens a new window that knows nothing of the one before; that one is closed.
    pub fn window(&mut self, window: Window) {
        let (width, height) = window.size;
        self.send(json!({
            "command": "window", "javascript": window.javascript, "dark": window.dark,
            "width": width, "height": height,
        }));
    }

    pub fn open(&mut self, url: &str) -> Page {
        self.send(json!({ "command": "open", "url": url }))
    }

    /// Opens a page that goes on by itself, and waits for the one it leads to, whose address begins with `to`.
    pub fn pass(&mut self, url: &str, to: &str) -> Page {
        self.send(json!({ "command": "pass", "url": url, "to": to }))
    }

    /// Gives the window an authenticator, with options of the protocol of the browser's developer tools changed.
    pub fn authenticator(&mut self, options: Value) {
        self.send(json!({ "command": "authenticator", "options": options }));
    }

    /// Whether somebody touches the authenticator when it asks.
    pub fn touch(&mut self, enabled: bool) {
        self.send(json!({ "command": "touch", "enabled": enabled }));
    }

    /// Whether the authenticator recognises them.
    pub fn recognise(&mut self, is_user_verified: bool) {
        self.send(json!({ "command": "recognise", "isUserVerified": is_user_verified }));
    }

    /// Puts a copy of another authenticator's passkey into this one.
    pub fn copy(&mut self, credential: &Value) {
        self.send(json!({ "command": "copy", "credential": credential }));
    }

    /// Clicks a button that leads nowhere; the page says why.
    pub fn click_in_vain(&mut self, button: &str) -> Page {
        self.send(json!({ "command": "click_in_vain", "button": button }))
    }

    /// Opens an address the browser cannot or will not show; what it says.
    pub fn open_in_vain(&mut self, url: &str) -> String {
        self.try_send(&json!({ "command": "open", "url": url }))
            .unwrap_err()
    }

    /// Puts a frame that shows an address into the page that is there.
    pub fn frame(&mut self, url: &str) -> Page {
        self.send(json!({ "command": "frame", "url": url }))
    }

    /// Fills the field with the label.
    pub fn fill(&mut self, label: &str, text: &str) {
        self.send(json!({ "command": "fill", "label": label, "text": text }));
    }

    /// Clicks the button and waits for the page it leads to.
    pub fn click(&mut self, button: &str) -> Page {
        self.send(json!({ "command": "click", "button": button }))
    }

    /// Types on the keyboard, wherever the focus is.
    pub fn type_text(&mut self, text: &str) -> Page {
        self.send(json!({ "command": "type", "text": text }))
    }

    /// Presses a key that stays on the page.
    pub fn press(&mut self, key: &str) -> Page {
        self.send(json!({ "command": "press", "key": key }))
    }

    /// Presses Enter and waits for the page it leads to.
    pub fn press_enter(&mut self) -> Page {
        self.send(json!({ "command": "press", "key": "Enter", "leaves": true }))
    }

    /// Fills the login form and sends it.
    pub fn log_in(&mut self, username: &str, password: &str) -> Page {
        self.fill("Username", username);
        self.fill("Password", password);
        self.click("Log in")
    }

    /// Keeps a picture of the page in the folder `TESTUDO_TEST_SCREENSHOTS`, for people; nothing without it.
    pub fn picture(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os("TESTUDO_TEST_SCREENSHOTS") {
            fs::create_dir_all(&folder).unwrap();
            let path = Path::new(&folder).join(format!("{name}.png"));
            self.send(json!({ "command": "screenshot", "path": path }));
        }
    }

    fn send(&mut self, command: Value) -> Page {
        self.try_send(&command)
            .unwrap_or_else(|failure| panic!("{command}: {failure}"))
    }

    fn try_send(&mut self, command: &Value) -> Result<Page, String> {
        let mut line = String::new();
        let commands = self.commands.as_mut().unwrap();
        let sent = writeln!(commands, "{command}").and_then(|()| commands.flush());
        sent.and_then(|()| self.answers.read_line(&mut line).map(drop))
            .unwrap();
        let answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the browser has gone: {error}: {line}"));
        match answer["failure"].as_str() {
            Some(failure) => Err(failure.to_owned()),
            None => Ok(serde_json::from_value(answer).unwrap()),
        }
    }
}

impl Drop for Chromium {
    /// Lets the browser close itself, so that nothing writes to its home while that is deleted.
    fn drop(&mut self) {
        drop(self.commands.take());
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && matches!(self.process.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Adds CAs to the ones that Chromium trusts for the owner of `home`: NSS keeps them.
fn trust(home: &Path, authorities: &[&Path]) {
    let database = home.join(".pki/nssdb");
    fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    let certutil = tool(&["/usr/bin/certutil"]);
    let run = |arguments: &[&str]| {
        let output = Command::new(&certutil)
            .args(["-d", &database])
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "certutil {arguments:?}: {errors}");
    };
    run(&["-N", "--empty-password"]);
    for (number, ca) in authorities.iter().enumerate() {
        let (name, ca) = (format!("ca {number}"), ca.display().to_string());
        run(&["-A", "-n", &name, "-t", "C,,", "-i", &ca]);
    }
}
