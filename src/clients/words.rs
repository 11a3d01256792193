//! What the clients say themselves, in both languages.

use tidewheel::services::Language;

/// Something to be told, about the conversation or the transfer and not of it.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// The conversation can begin.
    Connected(&'a str),
    /// The peer has ended it.
    Closed(&'a str),
    /// The same of a server that was to stay.
    ServerGone(&'a str),
    Listening(&'a str),
    /// A peer has come, or another one writes.
    Here(&'a str),
    Gone(&'a str),
    /// A line was typed, and there is nobody to send it to.
    Nobody,
    /// A line was typed that is not UTF-8.
    NotUtf8,
    /// The input is over, the peer is not.
    Waiting(&'a str),
    /// The conversation with one of several peers failed.
    Failed(&'a str),
    /// A document is whole, and has its name.
    Saved {
        path: &'a str,
        bytes: u64,
        url: &'a str,
    },
    /// The same of one that went the other way.
    Stored {
        path: &'a str,
        bytes: u64,
    },
    /// The name of an account on this server is wanted.
    User(&'a str),
    /// The password of this account is wanted.
    Password(&'a str),
}

impl Notice<'_> {
    pub fn text(&self, language: Language) -> String {
        match (self, language) {
            (Notice::Connected(peer), Language::English) => {
                format!("connected to {peer} (Ctrl-D: end of input, Ctrl-C: leave)")
            }
            (Notice::Connected(peer), Language::Chinese) => {
                format!("已连接到 {peer}（Ctrl-D 结束输入，Ctrl-C 退出）")
            }
            (Notice::Closed(peer), Language::English) => format!("{peer} closed the connection"),
            (Notice::Closed(peer), Language::Chinese) => format!("{peer} 已关闭连接"),
            (Notice::ServerGone(peer), Language::English) => {
                format!("the server {peer} closed the connection")
            }
            (Notice::ServerGone(peer), Language::Chinese) => format!("服务器 {peer} 已断开"),
            (Notice::Listening(address), Language::English) => format!("listening on {address}"),
            (Notice::Listening(address), Language::Chinese) => format!("正在监听 {address}"),
            (Notice::Here(peer), Language::English) => format!("{peer} connected"),
            (Notice::Here(peer), Language::Chinese) => format!("{peer} 来了"),
            (Notice::Gone(peer), Language::English) => format!("{peer} disconnected"),
            (Notice::Gone(peer), Language::Chinese) => format!("{peer} 离开了"),
            (Notice::Nobody, Language::English) => "not sent: no peer is connected".to_owned(),
            (Notice::Nobody, Language::Chinese) => "这里没有人，未发送".to_owned(),
            (Notice::NotUtf8, Language::English) => "not sent: the line is not valid UTF-8".to_owned(),
            (Notice::NotUtf8, Language::Chinese) => "未发送：输入的内容不是 UTF-8".to_owned(),
            (Notice::Waiting(peer), Language::English) => {
                format!("end of input: waiting for the remaining output of {peer} (Ctrl-C: leave)")
            }
            (Notice::Waiting(peer), Language::Chinese) => {
                format!("输入结束：等待 {peer} 余下的内容（Ctrl-C 退出）")
            }
            (Notice::Saved { path, bytes, url }, Language::English) => {
                format!("saved {path} ({bytes} bytes) from {url}")
            }
            (Notice::Saved { path, bytes, url }, Language::Chinese) => {
                format!("已保存 {path}（{bytes} 字节），来自 {url}")
            }
            (Notice::Stored { path, bytes }, Language::English) => format!("stored {path} ({bytes} bytes)"),
            (Notice::Stored { path, bytes }, Language::Chinese) => {
                format!("已存为 {path}（{bytes} 字节）")
            }
            (Notice::User(server), Language::English) => format!("User name at {server}: "),
            (Notice::User(server), Language::Chinese) => format!("{server} 的用户名："),
            (Notice::Password(account), Language::English) => format!("Password of {account}: "),
            (Notice::Password(account), Language::Chinese) => format!("{account} 的密码："),
            // Errors are told in English everywhere.
            (Notice::Failed(line), _) => (*line).to_owned(),
        }
    }
}
