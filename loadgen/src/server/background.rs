//! What to say of a server that has left the foreground.

use super::keeper::Ended;

/// How servers that usually daemonise are kept in the foreground, by the name of the program.
const FOREGROUND: [(&str, &str); 11] = [
    ("nginx", "start it with -g 'daemon off;'"),
    ("redis-server", "start it with --daemonize no"),
    ("valkey-server", "start it with --daemonize no"),
    ("memcached", "start it without -d"),
    ("haproxy", "start it with -db"),
    ("httpd", "start it with -DFOREGROUND"),
    ("apache2", "start it with -DFOREGROUND"),
    ("lighttpd", "start it with -D"),
    ("sshd", "start it with -D"),
    ("setsid", "start it without setsid, or with setsid --wait"),
    ("start-stop-daemon", "start the server itself"),
];

/// Where the program is no known one.
const ANY: &str = "start it so that it stays in the foreground (an option such as --foreground or --no-daemon, no setsid, no & \
                   without a wait)";

/// `nginx runs in the background: ...`, of a server whose first process has ended and has left others.
pub fn words(name: &str, program: &str, ended: &Ended) -> String {
    let left: Vec<_> = ended.left.iter().map(|(pid, name)| format!("{pid} ({name})")).collect();
    let processes = if left.len() == 1 { "process" } else { "processes" };
    let names = std::iter::once(program).chain(ended.left.iter().map(|(_, name)| name.as_str()));
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    // A program's name in the system has 15 characters at most.
    let advice = names.map(base).find_map(|name| {
        let known =
            FOREGROUND.iter().find(|(known, _)| name == *known || name == known[..known.len().min(15)]);
        known.map(|(_, advice)| *advice)
    });
    format!(
        "{name} runs in the background: it exited with {}, and {processes} {} continued without it (and were stopped). A server \
         must stay in the foreground: {}",
        ended.status,
        left.join(", "),
        advice.unwrap_or(ANY)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn known_servers_are_told_what_keeps_them_in_the_foreground() {
        let ended = |name: &str| Ended { status: ExitStatus::from_raw(0), left: vec![(7, name.to_owned())] };
        let told = words("/usr/sbin/nginx -c a", "/usr/sbin/nginx", &ended("nginx"));
        assert!(told.starts_with(
            "/usr/sbin/nginx -c a runs in the background: it exited with exit status: 0, and process 7 (nginx)"
        ));
        assert!(told.ends_with("start it with -g 'daemon off;'"), "{told}");
        // The program may be a shell or another wrapper: what it has left says more.
        assert!(words("sh run.sh", "sh", &ended("redis-server")).ends_with("--daemonize no"));
        assert!(words("setsid server", "setsid", &ended("server")).contains("setsid --wait"));
        assert!(words("server", "server", &ended("server")).contains("stays in the foreground"));
    }
}
