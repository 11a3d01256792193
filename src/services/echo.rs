//! Echo: every byte back, in order; every datagram back to its sender.

use crate::datagram::Datagram;
use crate::service::{Context, Service};
use crate::slots::ConnId;

/// Sends everything back, bytes and datagrams. Reading from a peer that does not read its answers is suspended.
#[derive(Debug, Default)]
pub struct Echo;

impl Service for Echo {
    #[inline(always)]
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.count_messages(1);
        cx.send_some(conn, bytes)
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.count_messages(1);
        cx.reply(datagram, datagram.bytes);
    }
}
