//! Who is put side by side: what there is for each kind of service, where it comes from, and how it is started.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tempfile::TempDir;

use crate::arguments::Versus;
use loadgen::Usage;
use loadgen::address::Address;
use loadgen::chat::Dialect;
use loadgen::cli::Run;
use loadgen::server::{CommandLine, Ready, Server, find_port};
use loadgen::trial::first_reply;

/// What a server may take to listen, under valgrind too.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What the product is called among the others, in announcements and on the command line.
pub const PRODUCT: &str = "tidewheel";

/// A page as small as any from nginx. What is not set here is as it comes.
const NGINX: &str = "\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid FOLDER/pid;
error_log /dev/null crit;
events { worker_connections 8192; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 127.0.0.1:PORT;
        location / {
            default_type text/html;
            return 200 '<h1>Hello world!</h1>';
        }
    }
}
";

/// What servers are compared in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Echo,
    Page,
    Room,
    Datagrams,
}

impl Kind {
    /// What of it the product is asked to serve.
    fn product_arguments(self) -> &'static str {
        match self {
            Kind::Echo => "serve --log-level error echo=127.0.0.1:0",
            Kind::Page => "serve --log-level error http=127.0.0.1:0",
            Kind::Room => "serve --log-level error chat=127.0.0.1:0 --chat-rate 0",
            Kind::Datagrams => "serve --log-level error echo=udp://127.0.0.1:0",
        }
    }

    /// What loadgen calls the service.
    fn service(self) -> &'static str {
        match self {
            Kind::Echo | Kind::Datagrams => "echo",
            Kind::Page => "http",
            Kind::Room => "chat",
        }
    }
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub kind: Kind,
    pub dialect: Option<Dialect>,
    /// Whether it is an error that it does not start.
    pub is_required: bool,
    start: Start,
}

#[derive(Clone, Debug)]
enum Start {
    /// It says where it listens, as this service over this transport.
    Announced(CommandLine, Announced),
    /// It is told its port, which stands for PORT, and says nothing.
    Told(&'static str),
    /// The same, and its configuration is in a folder.
    Configured(&'static str),
}

/// A server that is not measured, or a figure that is not counted, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    pub name: String,
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MISSING: {}: {}", self.name, self.why)
    }
}

/// A server that runs.
pub struct Running {
    pub server: Server,
    /// SERVICE=ADDRESS.
    pub target: String,
    /// Its files, as long as it runs.
    _folder: Option<TempDir>,
}

impl Peer {
    /// Starts it on the processors that the calling thread has, under the tool that `prefix` is, if it is any.
    pub fn start(&self, prefix: &str, stop: &AtomicBool) -> Result<Running> {
        self.run(prefix, stop).with_context(|| self.name.clone())
    }

    fn run(&self, prefix: &str, stop: &AtomicBool) -> Result<Running> {
        let service = self.kind.service();
        match &self.start {
            Start::Announced(command, announced) => {
                let command = command.clone().under(prefix).map_err(|words| anyhow!("{prefix}: {words}"))?;
                let (mut server, said) = Server::start_announced(&command, START_TIMEOUT, stop)?;
                let (name, transport) = announced;
                let beginning = format!("listening {name} {transport}://");
                let address =
                    said.iter().find_map(|line| line.strip_prefix(&beginning)).with_context(|| {
                        format!("{command} did not say `{beginning}...` before it said `ready`, but {said:?}")
                    })?;
                let target = format!("{service}={transport}://{address}");
                self.when_ready(&target, stop, |ready| server.await_reply(ready))?;
                Ok(Running { server, target, _folder: None })
            }
            Start::Told(command) => self.run_told(&format!("{prefix}{command}"), None, find_port(), stop),
            Start::Configured(command) => {
                let folder = tempfile::tempdir().context("a folder for its configuration")?;
                let port = find_port();
                let place = folder.path().display().to_string();
                let text = NGINX.replace("FOLDER", &place).replace("PORT", &port.to_string());
                fs::write(folder.path().join("nginx.conf"), text).context("writing its configuration")?;
                let command = format!("{prefix}{}", command.replace("FOLDER", &quoted(folder.path())?));
                self.run_told(&command, Some(folder), port, stop)
            }
        }
    }

    fn run_told(
        &self,
        command: &str,
        folder: Option<TempDir>,
        port: u16,
        stop: &AtomicBool,
    ) -> Result<Running> {
        let command = command_line(&command.replace("PORT", &port.to_string()))?;
        let address: Address = format!("127.0.0.1:{port}").parse().map_err(|words: String| anyhow!(words))?;
        let target = format!("{}={address}", self.kind.service());
        let server = self.when_ready(&target, stop, |ready| Server::start(&command, ready))?;
        Ok(Running { server, target, _folder: folder })
    }

    /// Does what needs to know when the server at this target is ready.
    fn when_ready<T>(
        &self,
        target: &str,
        stop: &AtomicBool,
        start: impl FnOnce(&Ready<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut run = Run::of(target)?;
        run.options.dialect = self.dialect;
        let first_reply = first_reply(&run);
        let address = &run.options.target.address;
        start(&Ready { address, first_reply: &first_reply, timeout: START_TIMEOUT, stop })
    }
}

fn command_line(text: &str) -> Result<CommandLine> {
    text.parse().map_err(|words: String| anyhow!("the command {text}: {words}"))
}

/// A path as a word of a command.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(shlex::try_quote(text).with_context(|| format!("{text:?} cannot stand in a command"))?.into_owned())
}

/// A server that is known here: where it comes from, and how it is started.
struct Known {
    name: &'static str,
    from: Origin,
    dialect: Option<Dialect>,
}

enum Origin {
    /// The Makefile builds it beside its source, with these arguments.
    Source { target: &'static str, arguments: &'static str, announced: Announced, needs: &'static str },
    /// The Makefile has cargo build it.
    Cargo(&'static str),
    /// Our own, with these options more.
    Product(&'static str),
    /// It is installed, or not.
    Installed { start: Start, program: &'static str, package: &'static str },
}

const C_COMPILER: &str = "gcc libc6-dev make";

fn floor(name: &'static str, target: &'static str, arguments: &'static str, announced: Announced) -> Known {
    let from = Origin::Source { target, arguments, announced, needs: C_COMPILER };
    Known { name, from, dialect: None }
}

fn library(name: &'static str, needs: &'static str) -> Known {
    let from = Origin::Source { target: name, arguments: "0", announced: ECHO, needs };
    Known { name, from, dialect: None }
}

fn product(dialect: Option<Dialect>) -> Known {
    Known { name: PRODUCT, from: Origin::Product(""), dialect }
}

/// Our own without batches of writes through io_uring.
fn epoll_only() -> Known {
    Known { name: "tidewheel, epoll only", from: Origin::Product(" --io-uring=false"), dialect: None }
}

/// What a server says that it listens as: a service, and over which transport.
type Announced = (&'static str, &'static str);

const ECHO: Announced = ("echo", "tcp");

/// All that are known of a kind. The first is what the others are held against.
fn known(kind: Kind) -> Vec<Known> {
    let cargo = |name| Known { name, from: Origin::Cargo(name), dialect: None };
    let installed = |name, start, program, package, dialect| Known {
        name,
        from: Origin::Installed { start, program, package },
        dialect,
    };
    match kind {
        Kind::Echo => vec![
            floor("floor", "floor", "0", ECHO),
            floor("phased", "floor", "--phased 0", ECHO),
            floor("batched", "floor", "--batched 0", ECHO),
            product(None),
            epoll_only(),
            cargo("tokio"),
            cargo("monoio"),
            library("libuv", "gcc libc6-dev make pkg-config libuv1-dev"),
            library("libevent", "gcc libc6-dev make pkg-config libevent-dev"),
            library("asio", "g++ make libboost-dev"),
            cargo("threads"),
        ],
        Kind::Page => {
            let start = Start::Configured("nginx -p FOLDER -c FOLDER/nginx.conf -e /dev/null");
            vec![installed("nginx", start, "nginx", "nginx", None), product(None)]
        }
        Kind::Room => {
            let redis =
                "redis-server --bind 127.0.0.1 --port PORT --save '' --appendonly no --logfile /dev/null";
            // Go's threads are as many as it has processors.
            let nats = "env GOMAXPROCS=1 nats-server --addr 127.0.0.1 --port PORT --log /dev/null";
            let mut floor = floor("floor", "fanout", "0", ("lines", "tcp"));
            floor.dialect = Some(Dialect::Lines);
            vec![
                floor,
                product(Some(Dialect::default())),
                installed("redis", Start::Told(redis), "redis-server", "redis-server", Some(Dialect::Redis)),
                installed("nats", Start::Told(nats), "nats-server", "nats-server", Some(Dialect::Nats)),
            ]
        }
        Kind::Datagrams => vec![
            floor("floor", "udp_floor", "0", ("echo", "udp")),
            floor("one by one", "udp_floor", "--batch 0 0", ("echo", "udp")),
            product(None),
        ],
    }
}

/// The names of all that are known.
pub fn names() -> Vec<&'static str> {
    let kinds = [Kind::Echo, Kind::Page, Kind::Room, Kind::Datagrams];
    let mut names: Vec<_> = kinds.into_iter().flat_map(known).map(|known| known.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Where the peers are built.
pub struct Workshop {
    /// benches/peers.
    peers: PathBuf,
    /// Of the repository.
    root: PathBuf,
    /// Where cargo puts what it builds.
    target: PathBuf,
}

impl Workshop {
    /// The one that is asked for, or the one of the repository around the current folder.
    pub fn find(asked: Option<&Path>) -> Result<Workshop> {
        let is_one = |peers: &Path| peers.join("floor.c").is_file() && peers.join("Makefile").is_file();
        let peers = match asked {
            Some(asked) if is_one(asked) => asked.to_owned(),
            Some(asked) => {
                let words = format!("--peers {}: it has no floor.c and Makefile", asked.display());
                return Err(Usage(words).into());
            }
            None => {
                let here = env::current_dir().context("asking for the current folder")?;
                let mut above = here.ancestors().map(|folder| folder.join("benches/peers"));
                above.find(|peers| is_one(peers)).ok_or_else(|| {
                    Usage(format!(
                        "{} is not in the repository, whose benches/peers has the servers to measure against: go there, or \
                         say --peers DIR",
                        here.display()
                    ))
                })?
            }
        };
        let peers = fs::canonicalize(peers).context("the folder of the peers")?;
        let root =
            peers.ancestors().nth(2).context("the folder of the peers is not in a repository")?.to_owned();
        // cargo takes it from where it runs, which is the root.
        let target = env::var_os("CARGO_TARGET_DIR").filter(|target| !target.is_empty());
        let target = root.join(target.unwrap_or_else(|| "target".into()));
        Ok(Workshop { peers, root, target })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Has make build something.
    fn make(&self, what: &str) -> Result<(), String> {
        let target = format!("TARGET={}", self.target.join("peers").display());
        let mut make = Command::new("make");
        make.args(["--silent", "-C"]).arg(&self.peers).args([what, &target]);
        built(&mut make)
    }

    /// Has cargo build the product.
    fn build_product(&self) -> Result<PathBuf, String> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.root).args(["build", "--release", "--quiet", "-p", PRODUCT]);
        built(&mut cargo)?;
        Ok(self.target.join("release").join(PRODUCT))
    }
}

/// Runs it, and returns the first error that it tells.
fn built(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let mut lines = told.lines().filter(|line| !line.trim().is_empty());
    let first = lines.clone().find(|line| line.contains("error")).or_else(|| lines.next_back());
    Err(first.unwrap_or("it did not say why").trim().to_owned())
}

/// Those of a kind that are wanted: what can be started, the one that others are held against first, and what is missing.
pub fn gather(kind: Kind, asked: &Versus, workshop: Option<&Workshop>) -> Result<(Vec<Peer>, Vec<Missing>)> {
    let is_wanted = |name: &str| asked.only.is_empty() || asked.only.iter().any(|only| only == name);
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for Known { name, from, dialect } in known(kind) {
        if !is_wanted(name) {
            continue;
        }
        let is_required = matches!(from, Origin::Product(_));
        match start_of(kind, from, asked, workshop)? {
            Ok(start) => peers.push(Peer { name: name.into(), kind, dialect, is_required, start }),
            Err(why) => missing.push(Missing { name: name.into(), why }),
        }
    }
    if kind == Kind::Echo {
        for given in asked.servers.iter().filter(|given| is_wanted(&given.name)) {
            let start = Start::Announced(given.command.clone(), ECHO);
            peers.push(Peer { name: given.name.clone(), kind, dialect: None, is_required: true, start });
        }
    }
    Ok((peers, missing))
}

/// How to start it, or why that cannot be.
fn start_of(
    kind: Kind,
    from: Origin,
    asked: &Versus,
    workshop: Option<&Workshop>,
) -> Result<Result<Start, String>> {
    let workshop = || workshop.context("nothing is built where only servers that were given are measured");
    let announced = |program: &Path, arguments: &str, announced| -> Result<Start> {
        Ok(Start::Announced(command_line(&format!("{} {arguments}", quoted(program)?))?, announced))
    };
    Ok(match from {
        Origin::Source { target, arguments, announced: line, needs } => {
            let workshop = workshop()?;
            match workshop.make(target) {
                Ok(()) => Ok(announced(&workshop.peers.join(target), arguments, line)?),
                Err(why) => Err(format!("it cannot be built ({why}): apt install {needs}")),
            }
        }
        Origin::Cargo(name) => {
            let workshop = workshop()?;
            match workshop.make(name) {
                Ok(()) => {
                    let program = workshop.target.join("peers/release").join(format!("peer-{name}"));
                    Ok(announced(&program, "0", ECHO)?)
                }
                Err(why) => Err(format!("it cannot be built ({why}): it needs cargo and crates.io")),
            }
        }
        Origin::Product(options) => {
            let line = match kind {
                Kind::Echo => ECHO,
                Kind::Page => ("http", "tcp"),
                Kind::Room => ("chat", "tcp"),
                Kind::Datagrams => ("echo", "udp"),
            };
            let program = match &asked.binary {
                Some(program) => Ok(program.clone()),
                None => workshop()?.build_product(),
            };
            match program {
                Ok(program) => {
                    Ok(announced(&program, &format!("{}{options}", kind.product_arguments()), line)?)
                }
                Err(why) => Err(format!("it cannot be built: {why}")),
            }
        }
        Origin::Installed { start, program, package } => match is_installed(program) {
            true => Ok(start),
            false => Err(format!("{program} is not installed: apt install {package}")),
        },
    })
}

/// Whether there is a program of this name.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
