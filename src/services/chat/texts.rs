//! Everything that the server itself says in chat, in both languages.

use std::fmt::Write;

use super::names::{BadName, NAME_CHARS_MAX};
use crate::services::Language;

/// What asks for a nickname: no line, so that it can be answered behind it.
pub fn prompt(language: Language) -> &'static str {
    match language {
        Language::English => "nickname: ",
        Language::Chinese => "请输入昵称:",
    }
}

/// Something that the server says: one line or several.
pub enum Text<'a> {
    Welcome { nick: &'a str, room: &'a str, people: usize },
    Bad(BadName),
    Taken(&'a str),
    Joined(&'a str),
    Left(&'a str),
    Renamed { from: &'a str, to: &'a str },
    YouAre(&'a str),
    Entered { room: &'a str, people: usize },
    InAlready(&'a str),
    NoRoom(&'a str),
    TooManyRooms,
    Nobody(&'a str),
    Who { room: &'a str, nicks: &'a [&'a str], more: usize },
    Rooms { rooms: &'a [(&'a str, usize)], more: usize },
    Help,
    Incomplete(&'a str),
    Unknown(&'a str),
    SlowDown,
    Flooded,
    TooLong,
    Goodbye,
}

const HELP: &str = "\
* TEXT                 say TEXT to everyone else in the room
* NAME:TEXT            say TEXT to NAME alone; so do @NAME TEXT and /msg NAME TEXT
* /say TEXT            say TEXT to the room as it is, whatever it looks like
* /join ROOM           go to ROOM, which is made if there is none
* /leave               go back to the lobby
* /rooms               which rooms there are
* /who [ROOM]          who is here, or in ROOM
* /nick NAME           have another name
* /help                this list
* /quit                leave
";

const HELP_ZH: &str = "\
* 文字                 对房间里的其他人说
* 昵称:文字            只对一个人说；也可以写 @昵称 文字 或 /msg 昵称 文字
* /say 文字            原样发送到房间
* /join 房间           进入房间，不存在则新建
* /leave               回到 lobby
* /rooms               列出房间
* /who [房间]          列出这里或某个房间里的人
* /nick 昵称           换一个昵称
* /help                显示本帮助
* /quit                退出
";

impl Text<'_> {
    /// What is sent for it.
    pub fn lines(&self, language: Language) -> String {
        match (self, language) {
            (Text::Help, Language::English) => return HELP.to_owned(),
            (Text::Help, Language::Chinese) => return HELP_ZH.to_owned(),
            _ => {}
        }
        let mut out = "* ".to_owned();
        let written = match language {
            Language::English => self.write_english(&mut out),
            Language::Chinese => self.write_chinese(&mut out),
        };
        written.expect("a String takes everything");
        out.push('\n');
        out
    }

    fn write_english(&self, out: &mut String) -> std::fmt::Result {
        match *self {
            Text::Welcome { nick, room, people } => {
                write!(
                    out,
                    "welcome to {room}, {nick}: {} here; /help lists the commands",
                    english_count(people)
                )
            }
            Text::Bad(BadName::Length) => write!(out, "a name has 1 to {NAME_CHARS_MAX} characters"),
            Text::Bad(BadName::Character) => {
                out.write_str("a name consists of letters and digits of any script, _ and -")
            }
            Text::Taken(nick) => write!(out, "the name {nick} is taken"),
            Text::Joined(nick) => write!(out, "{nick} has joined"),
            Text::Left(nick) => write!(out, "{nick} has left"),
            Text::Renamed { from, to } => write!(out, "{from} is now {to}"),
            Text::YouAre(nick) => write!(out, "you are now {nick}"),
            Text::Entered { room, people } => {
                write!(out, "you are in {room}: {} here", english_count(people))
            }
            Text::InAlready(room) => write!(out, "you are in {room} already"),
            Text::NoRoom(room) => write!(out, "there is no room {room}; /rooms lists those there are"),
            Text::TooManyRooms => out.write_str("there are too many rooms; /rooms lists those there are"),
            Text::Nobody(nick) => {
                write!(
                    out,
                    "nobody here is called {nick}, so nothing was sent; /say TEXT says TEXT to the room"
                )
            }
            Text::Who { room, nicks, more } => {
                write!(out, "{} in {room}: {}", english_count(nicks.len() + more), nicks.join(", "))?;
                if more > 0 { write!(out, " ... and {more} more") } else { Ok(()) }
            }
            Text::Rooms { rooms, more } => {
                out.write_str("rooms: ")?;
                write_rooms(rooms, out)?;
                if more > 0 { write!(out, " ... and {more} more") } else { Ok(()) }
            }
            Text::Help => Ok(()),
            Text::Incomplete(form) => write!(out, "something is missing: {form}"),
            Text::Unknown(command) => {
                write!(out, "there is no command /{command}; /help lists those there are")
            }
            Text::SlowDown => out.write_str("slow down"),
            Text::Flooded => out.write_str("you did not slow down, goodbye"),
            Text::TooLong => out.write_str("that message is too long, goodbye"),
            Text::Goodbye => out.write_str("goodbye"),
        }
    }

    fn write_chinese(&self, out: &mut String) -> std::fmt::Result {
        match *self {
            Text::Welcome { nick, room, people } => {
                write!(out, "{nick}，欢迎来到 {room}，这里有 {people} 人；输入 /help 查看命令")
            }
            Text::Bad(BadName::Length) => write!(out, "名称须为 1 到 {NAME_CHARS_MAX} 个字符"),
            Text::Bad(BadName::Character) => out.write_str("名称只能由文字、数字、_ 和 - 组成"),
            Text::Taken(nick) => write!(out, "昵称 {nick} 已被使用"),
            Text::Joined(nick) => write!(out, "{nick} 进入了房间"),
            Text::Left(nick) => write!(out, "{nick} 离开了房间"),
            Text::Renamed { from, to } => write!(out, "{from} 改名为 {to}"),
            Text::YouAre(nick) => write!(out, "你现在叫 {nick}"),
            Text::Entered { room, people } => write!(out, "你进入了 {room}，这里有 {people} 人"),
            Text::InAlready(room) => write!(out, "你已经在 {room} 了"),
            Text::NoRoom(room) => write!(out, "没有房间 {room}；输入 /rooms 查看房间"),
            Text::TooManyRooms => out.write_str("房间太多了；输入 /rooms 查看房间"),
            Text::Nobody(nick) => {
                write!(out, "没有人叫 {nick}，消息未发送；要发送到房间请输入 /say 文字")
            }
            Text::Who { room, nicks, more } => {
                write!(out, "{room} 有 {} 人：{}", nicks.len() + more, nicks.join(", "))?;
                if more > 0 { write!(out, " ……还有 {more} 人") } else { Ok(()) }
            }
            Text::Rooms { rooms, more } => {
                out.write_str("房间：")?;
                write_rooms(rooms, out)?;
                if more > 0 { write!(out, " ……还有 {more} 个") } else { Ok(()) }
            }
            Text::Help => Ok(()),
            Text::Incomplete(form) => write!(out, "命令不完整：{form}"),
            Text::Unknown(command) => write!(out, "没有命令 /{command}；输入 /help 查看命令"),
            Text::SlowDown => out.write_str("请慢一点"),
            Text::Flooded => out.write_str("发送得太快，再见"),
            Text::TooLong => out.write_str("消息太长，再见"),
            Text::Goodbye => out.write_str("再见"),
        }
    }
}

fn english_count(people: usize) -> String {
    if people == 1 { "1 person".to_owned() } else { format!("{people} people") }
}

fn write_rooms(rooms: &[(&str, usize)], out: &mut String) -> std::fmt::Result {
    for (index, (room, people)) in rooms.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(out, "{comma}{room} ({people})")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_of_lines_that_show_whose_they_are() {
        let rooms = [("lobby", 2), ("rust", 1)];
        let texts = [
            Text::Welcome { nick: "bob", room: "lobby", people: 1 },
            Text::Bad(BadName::Length),
            Text::Bad(BadName::Character),
            Text::Taken("bob"),
            Text::Joined("bob"),
            Text::Left("bob"),
            Text::Renamed { from: "bob", to: "ada" },
            Text::YouAre("ada"),
            Text::Entered { room: "rust", people: 2 },
            Text::InAlready("rust"),
            Text::NoRoom("rust"),
            Text::TooManyRooms,
            Text::Nobody("bob"),
            Text::Who { room: "rust", nicks: &["bob", "ada"], more: 0 },
            Text::Who { room: "rust", nicks: &["bob", "ada"], more: 7 },
            Text::Rooms { rooms: &rooms, more: 0 },
            Text::Rooms { rooms: &rooms, more: 7 },
            Text::Help,
            Text::Incomplete("/say TEXT"),
            Text::Unknown("dance"),
            Text::SlowDown,
            Text::Flooded,
            Text::TooLong,
            Text::Goodbye,
        ];
        for text in texts {
            let [english, chinese] = [Language::English, Language::Chinese].map(|language| {
                let out = text.lines(language);
                assert!(out.ends_with('\n'));
                assert!(out.lines().all(|line| line.starts_with("* ") && line.len() > 2), "{out}");
                assert!(!out.chars().any(|it| it != '\n' && it.is_control()), "{out}");
                out
            });
            assert!(english.is_ascii());
            assert!(!chinese.is_ascii(), "{chinese} is not in Chinese");
        }
    }
}
