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

/// How alike a misspelled name and that of a service must be for it to be suggested.
const HINT_LIKENESS_MIN: f64 = 0.8;

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
        if text == "https" {
            return Err("loadgen does not support TLS yet: use http=HOST:PORT with a port without TLS".into());
        }
        Service::ALL.into_iter().find(|service| service.name() == text).ok_or_else(|| {
            let names = Service::ALL.map(Service::name);
            let nearest = names.into_iter().max_by(|one, other| {
                strsim::jaro_winkler(one, text).total_cmp(&strsim::jaro_winkler(other, text))
            });
            let hint = nearest.filter(|name| strsim::jaro_winkler(name, text) >= HINT_LIKENESS_MIN);
            match hint {
                Some(name) => format!("unknown service '{text}': did you mean {name}?"),
                None => format!("unknown service '{text}'; the services are: {}", names.join(", ")),
            }
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_for_a_misspelled_service() {
        for (text, name) in [("ecoh", "echo"), ("htpp", "http"), ("Echo", "echo"), ("upercase", "uppercase")]
        {
            let error = text.parse::<Service>().unwrap_err();
            assert!(error.contains(&format!("did you mean {name}?")), "{error}");
        }
        let error = "zzz".parse::<Service>().unwrap_err();
        assert!(error.contains("the services are: echo, uppercase"), "{error}");
    }
}
