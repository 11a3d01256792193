//! What can be driven: the services that have a verification of their replies.

use std::fmt;
use std::str::FromStr;

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    Echo,
    Uppercase,
    Time,
    Greeting,
    Daytime,
    Banner,
    Http,
    Chat,
    /// What `--send` and `--expect` say.
    Custom,
}

impl Service {
    const ALL: [Service; 9] = [
        Service::Echo,
        Service::Uppercase,
        Service::Time,
        Service::Greeting,
        Service::Daytime,
        Service::Banner,
        Service::Http,
        Service::Chat,
        Service::Custom,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Uppercase => "uppercase",
            Service::Time => "time",
            Service::Greeting => "greeting",
            Service::Daytime => "daytime",
            Service::Banner => "banner",
            Service::Http => "http",
            Service::Chat => "chat",
            Service::Custom => "custom",
        }
    }

    /// Whether it is offered over streams.
    pub fn has_streams(self) -> bool {
        self != Service::Time
    }

    /// Whether it is offered over datagrams.
    pub fn has_datagrams(self) -> bool {
        matches!(self, Service::Echo | Service::Uppercase | Service::Time)
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Service, String> {
        Service::ALL.into_iter().find(|service| service.name() == text).ok_or_else(|| {
            let names = Service::ALL.map(Service::name).join(", ");
            format!("{text:?} is not a service; there are {names}")
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
