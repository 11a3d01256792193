//! Chromium without a window, driven through its DevTools protocol. Over a pipe that is JSON with a zero byte behind each
//! message, so a handful of commands needs neither a WebSocket nor a library.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Reports what is wrong with a page.
const LOOK: &str = include_str!("look.js");

/// What is seen of a page.
pub struct Seen {
    pub faults: Vec<String>,
    pub plots: u64,
}

/// A browser with one page. It ends with this.
pub struct Browser {
    chromium: Child,
    requests: ChildStdin,
    messages: BufReader<ChildStdout>,
    /// Of the page, once there is one.
    session: Option<String>,
    last_id: u64,
    /// What the browser has reported since the page was opened.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    pub fn start() -> Browser {
        let profile = TempDir::new().unwrap();
        // It reads from descriptor 3 and writes to 4, which the shell makes of the two pipes.
        let mut chromium = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"])
            .args(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = chromium.stdin.take().unwrap();
        let messages = BufReader::new(chromium.stdout.take().unwrap());
        let mut browser = Browser {
            chromium,
            requests,
            messages,
            session: None,
            last_id: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", target);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Looks at a file on a phone and on a wide screen, light and dark. Each fault is reported with its page, width and mode; the plots
    /// are as many as everywhere at least.
    pub fn look_at(&mut self, path: &str) -> Seen {
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut all = Seen { faults: Vec::new(), plots: u64::MAX };
        for (width, scheme) in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")] {
            let Seen { faults, plots } = self.look_once(path, width, scheme);
            all.faults
                .extend(faults.iter().map(|fault| format!("{name}, {width} pixels, {scheme}: {fault}")));
            all.plots = all.plots.min(plots);
        }
        all
    }

    /// Looks at a file on one screen.
    pub fn look_once(&mut self, path: &str, width: u32, scheme: &str) -> Seen {
        self.open(path, width, scheme);
        let seen = self.value(LOOK);
        let found = seen["faults"].as_array().unwrap().iter();
        let mut faults: Vec<_> = found.map(|fault| fault.as_str().unwrap().to_owned()).collect();
        faults.extend(self.complaints());
        Seen { faults, plots: seen["plots"].as_u64().unwrap() }
    }

    /// Opens a file on a screen that is so many pixels wide, and waits until it is shown.
    fn open(&mut self, path: &str, width: u32, scheme: &str) {
        let is_phone = width < 500;
        let screen = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", screen);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        self.events.clear();
        self.call("Page.navigate", json!({"url": format!("file://{path}")}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
    }

    /// What an expression in the page comes to.
    fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// The errors of the page since it was opened, and what it has asked of others than the files of this machine.
    fn complaints(&self) -> Vec<String> {
        let complaints = self.events.iter().filter(|event| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !["file:", "data:"].iter().any(|scheme| url.starts_with(scheme))
            }
            _ => false,
        });
        complaints.map(|event| event["params"].to_string()).collect()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        loop {
            let message = self.next();
            if message["id"] != self.last_id {
                self.events.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {message}");
            return message["result"].clone();
        }
    }

    fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.messages.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "chromium has ended");
        serde_json::from_slice(&message).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.chromium.kill();
        let _ = self.chromium.wait();
    }
}
