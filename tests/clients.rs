//! The clients of the command line, as people and pipes use them.

mod chat;
mod console;
mod ftp;
mod ftp_accounts;
mod ftp_debian;
mod ftp_replies;
mod ftp_script;
mod ftp_server;
mod get;
mod get_proxy;
mod listen;
mod run;
mod screen;
mod shell;
mod talk;
mod terminal;
mod tutorials;
mod web;
mod web_servers;
