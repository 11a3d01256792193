//! Messages from other threads to a service: typed, bounded, delivered by the reactor in its turn.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::Wake;
use crate::service::{Context, Receive, Service};

/// The sending end of a bounded queue of messages from other threads to one service. Clones send to the same queue.
///
/// ```
/// use tidewheel::{Context, Limits, Options, Reactor, Receive, Remote, Service};
///
/// struct Sum {
///     total: u32,
///     remote: Remote,
/// }
///
/// impl Service for Sum {}
///
/// impl Receive<u32> for Sum {
///     fn message(&mut self, number: u32, _: &mut Context<'_>) {
///         self.total += number;
///         if self.total == 42 {
///             self.remote.stop();
///         }
///     }
/// }
///
/// let mut reactor = Reactor::new(Limits::default())?;
/// let sum = Sum { total: 0, remote: reactor.remote() };
/// let sum = reactor.add_service(sum, Options::new("sum"));
/// let mailbox = reactor.mailbox::<Sum, u32>(sum, 100);
/// std::thread::spawn(move || (mailbox.send(40), mailbox.send(2)));
/// reactor.run()?;
/// # Ok::<(), tidewheel::Error>(())
/// ```
pub struct Mailbox<M> {
    shared: Arc<Letters<M>>,
    wake: Arc<dyn Wake>,
}

struct Letters<M> {
    queue: Mutex<Queue<M>>,
    capacity: usize,
}

struct Queue<M> {
    messages: VecDeque<M>,
    closed: bool,
}

impl<M> Letters<M> {
    /// A sender that panicked left the queue whole: pushing and popping do not stop half-way.
    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a message was not sent. It contains the message.
#[derive(PartialEq, Eq)]
pub enum SendError<M> {
    /// The mailbox is full.
    Full(M),
    /// The reactor no longer exists.
    Closed(M),
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => {
                "the mailbox is full: send again later, or create it with a larger capacity"
            }
            SendError::Closed(_) => "the reactor of the mailbox no longer exists",
        })
    }
}

/// The same as [`Display`](fmt::Display), whatever the message is.
impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M> std::error::Error for SendError<M> {}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Mailbox<M> {
        Mailbox { shared: self.shared.clone(), wake: self.wake.clone() }
    }
}

impl<M> Mailbox<M> {
    /// Queues a message for the service and wakes the reactor. It does not wait for the reactor.
    ///
    /// # Errors
    /// [`SendError::Full`] when the capacity is reached, [`SendError::Closed`] when the reactor no longer exists.
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        let first = {
            let mut queue = self.shared.lock();
            if queue.closed {
                return Err(SendError::Closed(message));
            }
            if queue.messages.len() >= self.shared.capacity {
                return Err(SendError::Full(message));
            }
            queue.messages.push_back(message);
            queue.messages.len() == 1
        };
        // Behind the first message nobody else has to wake: the reactor empties the queue or stays awake.
        if first {
            self.wake.wake();
        }
        Ok(())
    }
}

/// The receiving end, as the reactor sees it.
pub(crate) trait Inbox {
    /// Delivers what a panic left, and then up to `max` messages. Returns whether more wait.
    fn deliver(&mut self, max: usize, service: &mut dyn Service, cx: &mut Context<'_>) -> bool;
}

struct TypedInbox<S, M> {
    shared: Arc<Letters<M>>,
    taken: VecDeque<M>,
    service: PhantomData<fn(&mut S)>,
}

impl<S: Receive<M>, M: Send + 'static> Inbox for TypedInbox<S, M> {
    fn deliver(&mut self, max: usize, service: &mut dyn Service, cx: &mut Context<'_>) -> bool {
        let more = {
            let mut queue = self.shared.lock();
            let count = queue.messages.len().min(max);
            self.taken.extend(queue.messages.drain(..count));
            !queue.messages.is_empty()
        };
        let service: &mut dyn Any = service;
        let service = service.downcast_mut::<S>().expect("the type was checked when the mailbox was made");
        // One by one: what follows a message that makes the service panic is delivered after it.
        while let Some(message) = self.taken.pop_front() {
            cx.state.metrics.mailbox_messages += 1;
            service.message(message, cx);
        }
        more
    }
}

impl<S, M> Drop for TypedInbox<S, M> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.messages.clear();
    }
}

pub(crate) fn mailbox<S, M>(capacity: usize, wake: Arc<dyn Wake>) -> (Mailbox<M>, Box<dyn Inbox>)
where
    S: Receive<M>,
    M: Send + 'static,
{
    let queue = Mutex::new(Queue { messages: VecDeque::new(), closed: false });
    let shared = Arc::new(Letters { queue, capacity });
    let inbox = TypedInbox::<S, M> { shared: shared.clone(), taken: VecDeque::new(), service: PhantomData };
    (Mailbox { shared, wake }, Box::new(inbox))
}
