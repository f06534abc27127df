//! A session and its byte stream, for whoever wants to `await`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::time::Sleep;

use super::dial::{DialError, Target};
use super::options::{Options, OptionsError};
use super::session::{Connected, Disconnection, Event, Message, Published, RequestError, Session, Token};
use crate::mqtt::{
    QoS, ReasonCode, RetainHandling, SubscribeProperties, Subscription, TopicFilter, Utf8String,
};
use crate::net::link::{Buffers, Link};

/// An MQTT client for one task; need not be `Send`.
///
/// Nothing happens between calls: whoever owns a client calls [`Client::next_event`] (or anything else that waits)
/// often enough for the keep-alive. A message taken is acknowledged on the wire by the next call that waits, so a
/// program that dies over a message of QoS 1 or 2 gets it again.
///
/// Every `async` method may be dropped while it waits: what was sent and received so far stays in the client. A
/// [`Client::publish`] or [`Client::subscribe`] that was dropped goes on without its caller, and its answer comes by
/// [`Client::next_event`].
#[derive(Debug)]
pub struct Client {
    session: Session,
    link: Option<Link>,
    buffers: Buffers,
    timer: Option<Pin<Box<Sleep>>>,
    /// How the last connection ended, once it was told.
    ended: Disconnection,
    /// What [`Client::next_message`] came across.
    passed_over: VecDeque<Event>,
}

/// Why a client could not do what was asked.
#[derive(Debug)]
pub enum ClientError {
    /// The options contradict each other.
    Options(OptionsError),
    /// The server cannot be reached.
    Dial(DialError),
    /// The connection is over.
    Disconnected(Disconnection),
    /// The request was not taken.
    Request(RequestError),
    /// The server refused it.
    Refused(ReasonCode, Option<Utf8String>),
    /// The server forgot a QoS 2 message halfway; see [`Event::Forgotten`].
    Forgotten,
}

/// Bytes that may wait for the socket before no more messages are taken from the session; a few segments, so that a
/// slow link keeps its messages where they can still be counted.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// How long a farewell may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// Connects to `target` and waits until the server has let us in.
    ///
    /// # Errors
    /// [`ClientError::Options`], [`ClientError::Dial`], [`ClientError::Disconnected`] where CONNECT was refused.
    pub async fn connect(target: &Target, options: Options) -> Result<Self, ClientError> {
        let mut client = Self::new(options).map_err(ClientError::Options)?;
        client.reconnect(target).await?;
        Ok(client)
    }

    /// A client that is not connected yet.
    ///
    /// # Errors
    /// [`OptionsError`] where the options contradict each other.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        Ok(Self {
            session: Session::new(options)?,
            link: None,
            buffers: Buffers::new(),
            timer: None,
            ended: Disconnection::Closed,
            passed_over: VecDeque::new(),
        })
    }

    /// Connects once more, taking up the session where the last connection left it.
    ///
    /// Dropped while it waits, it leaves the client disconnected.
    ///
    /// # Errors
    /// [`ClientError::Dial`], [`ClientError::Disconnected`].
    pub async fn reconnect(&mut self, target: &Target) -> Result<Connected, ClientError> {
        self.link = None;
        self.session.handle_closed();
        // The end of the connection before this one is old news.
        while self.session.take_connected().is_some() {}
        let link = target
            .dial(self.session.options())
            .await
            .map_err(ClientError::Dial)?;
        self.link = Some(link);
        self.session.handle_opened(now());
        match self.until(Session::take_connected).await {
            Ok(Event::Connected(connected)) => Ok(*connected),
            Ok(Event::Disconnected(why)) | Err(why) => {
                self.ended = why.clone();
                Err(ClientError::Disconnected(why))
            }
            Ok(_) => unreachable!("take_connected takes the start or the end of a connection"),
        }
    }

    /// Whether the server has let us in and nothing has ended since.
    pub fn is_online(&self) -> bool {
        self.session.is_online()
    }

    /// Messages of ours that wait or are not acknowledged.
    pub fn unfinished(&self) -> usize {
        self.session.unfinished()
    }

    /// QoS 0 messages dropped so far because nobody took them; see [`Options::events_max`].
    pub fn dropped(&self) -> u64 {
        self.session.dropped()
    }

    /// The next thing to happen, [`Event::Connected`] and [`Event::Disconnected`] excepted: the one is what
    /// [`Client::reconnect`] returns, the other is the error here, every time from then on.
    ///
    /// # Errors
    /// [`Disconnection`] once everything before it has been taken.
    pub async fn next_event(&mut self) -> Result<Event, Disconnection> {
        if let Some(event) = self.passed_over.pop_front() {
            return Ok(event);
        }
        self.next_fresh_event().await
    }

    /// The next message; answers to [`Client::enqueue`] stay for [`Client::next_event`].
    ///
    /// # Errors
    /// [`Disconnection`] once every message before it has been taken.
    pub async fn next_message(&mut self) -> Result<Message, Disconnection> {
        loop {
            match self.next_fresh_event().await? {
                Event::Message(message) => return Ok(message),
                // Bounded by what may wait and be unfinished in the session.
                event => self.passed_over.push_back(event),
            }
        }
    }

    /// Publishes `message` and waits: for QoS 0 until its bytes are with the operating system, for QoS 1 and 2 until
    /// the server has it.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Disconnected`] a message of QoS 1 or 2 goes on by itself once
    /// [`Client::reconnect`] succeeds.
    pub async fn publish(&mut self, message: Message) -> Result<Published, ClientError> {
        let token = self.enqueue(message).map_err(ClientError::Request)?;
        let outcome = self
            .until(|session| session.take_outcome(token))
            .await
            .map_err(ClientError::Disconnected)?;
        match outcome {
            Event::Published(published) if published.reason.is_error() => {
                Err(ClientError::Refused(published.reason, published.reason_string))
            }
            Event::Published(published) => {
                self.flush().await.map_err(ClientError::Disconnected)?;
                Ok(published)
            }
            _ => Err(ClientError::Forgotten),
        }
    }

    /// Takes `message` for sending and returns at once; what becomes of it comes by [`Client::next_event`].
    ///
    /// # Errors
    /// [`RequestError::Full`] when [`Options::waiting_max`] messages wait.
    pub fn enqueue(&mut self, message: Message) -> Result<Token, RequestError> {
        self.session.publish(message)
    }

    /// Subscribes, and waits for the server's answer: one reason for each filter, in their order.
    ///
    /// # Errors
    /// [`ClientError::Request`], [`ClientError::Disconnected`]; a refused filter is no error, it stands in the answer.
    pub async fn subscribe(
        &mut self,
        subscriptions: impl IntoIterator<Item = Subscription>,
        properties: SubscribeProperties,
    ) -> Result<SmallVec<[ReasonCode; 8]>, ClientError> {
        let token = self
            .session
            .subscribe(subscriptions, properties)
            .map_err(ClientError::Request)?;
        match self.until(|session| session.take_outcome(token)).await {
            Ok(Event::Subscribed { reasons, .. }) => Ok(reasons),
            Ok(_) => unreachable!("the outcome of SUBSCRIBE is SUBACK"),
            Err(why) => Err(ClientError::Disconnected(why)),
        }
    }

    /// Subscribes to one filter, and waits for the quality granted.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Refused`] where the server does not grant it.
    pub async fn subscribe_to(&mut self, filter: TopicFilter, qos: QoS) -> Result<QoS, ClientError> {
        let subscription = Subscription {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        match self
            .subscribe([subscription], SubscribeProperties::default())
            .await?
            .first()
        {
            Some(ReasonCode::Success) => Ok(QoS::AtMostOnce),
            Some(ReasonCode::GrantedQos1) => Ok(QoS::AtLeastOnce),
            Some(ReasonCode::GrantedQos2) => Ok(QoS::ExactlyOnce),
            Some(reason) => Err(ClientError::Refused(*reason, None)),
            None => unreachable!("the session takes a SUBACK with one reason for each filter only"),
        }
    }

    /// Gives up `filters`, and waits for the server's answer: one reason for each, in their order.
    ///
    /// # Errors
    /// [`ClientError::Request`], [`ClientError::Disconnected`].
    pub async fn unsubscribe(
        &mut self,
        filters: impl IntoIterator<Item = TopicFilter>,
    ) -> Result<SmallVec<[ReasonCode; 8]>, ClientError> {
        let token = self.session.unsubscribe(filters).map_err(ClientError::Request)?;
        match self.until(|session| session.take_outcome(token)).await {
            Ok(Event::Unsubscribed { reasons, .. }) => Ok(reasons),
            Ok(_) => unreachable!("the outcome of UNSUBSCRIBE is UNSUBACK"),
            Err(why) => Err(ClientError::Disconnected(why)),
        }
    }

    /// Waits until everything said so far is with the operating system.
    ///
    /// # Errors
    /// [`Disconnection`] where the connection ends before.
    pub async fn flush(&mut self) -> Result<(), Disconnection> {
        poll_fn(|cx| {
            loop {
                match &self.link {
                    None => return Poll::Ready(Err(self.ending())),
                    Some(link) if link.unsent() == 0 => return Poll::Ready(Ok(())),
                    Some(_) => ready!(self.poll_turn(cx)),
                }
            }
        })
        .await
    }

    /// Says goodbye: acknowledges what was taken, sends DISCONNECT, and waits a moment for the server to hang up.
    ///
    /// The client can [`Client::reconnect`] afterwards.
    pub async fn disconnect(&mut self, reason: ReasonCode) {
        let was_online = self.session.is_online();
        self.session.disconnect(reason);
        let Some(mut link) = self.link.take().filter(|_| was_online) else {
            return;
        };
        while let Some(packet) = self.session.poll_packet() {
            link.send(&packet, &mut self.buffers);
        }
        let buffers = &mut self.buffers;
        let goodbye = poll_fn(|cx| link.poll_close(cx, buffers));
        if let Ok(Ok(())) = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await {
            // What the server still says must be read, or the system resets the connection and DISCONNECT is lost
            // with it.
            let silence = poll_fn(|cx| link.poll_discard(cx, buffers));
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, silence).await;
        }
    }

    async fn next_fresh_event(&mut self) -> Result<Event, Disconnection> {
        loop {
            match self.until(Session::poll_event).await? {
                Event::Disconnected(why) => {
                    self.ended = why.clone();
                    return Err(why);
                }
                Event::Connected(_) => {}
                event => return Ok(event),
            }
        }
    }

    /// Lets the connection run until `ready` finds what it looks for.
    async fn until<T>(
        &mut self,
        mut ready: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, Disconnection> {
        poll_fn(|cx| {
            loop {
                if let Some(found) = ready(&mut self.session) {
                    return Poll::Ready(Ok(found));
                }
                if self.link.is_none() {
                    return Poll::Ready(Err(self.ending()));
                }
                ready!(self.poll_turn(cx));
            }
        })
        .await
    }

    /// Does one thing; pending when there is nothing to do. Bounded: at most one read and one packet.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(());
        };

        // Priority 1: say what is to be said, all of it in one write.
        let mut progress = false;
        while link.unsent() < UNSENT_BYTES_MAX
            && let Some(packet) = self.session.poll_packet()
        {
            link.send(&packet, &mut self.buffers);
            progress = true;
        }
        if link.unsent() > 0 {
            match link.poll_flush(cx, &mut self.buffers) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(_)) => return self.hang_up(cx),
                Poll::Pending => {}
            }
        }
        if progress {
            return Poll::Ready(());
        }

        // Priority 2: what has come.
        match link.poll_packet() {
            Ok(Some(packet)) => {
                self.session.handle_packet(now(), packet);
                return self.turned(cx);
            }
            Ok(None) => {}
            Err(error) => {
                self.session.handle_malformed(error);
                return self.turned(cx);
            }
        }

        // Priority 3: what is due.
        if let Some(due) = self.session.poll_timeout() {
            let due = tokio::time::Instant::from_std(due);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_ready() {
                self.session.handle_timeout(now());
                return self.turned(cx);
            }
        }

        // Priority 4: what comes.
        match ready!(link.poll_receive(cx, &mut self.buffers)) {
            Ok(0) | Err(_) => self.hang_up(cx),
            Ok(_) => Poll::Ready(()),
        }
    }

    fn hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.handle_closed();
        self.turned(cx)
    }

    /// Lets go of the byte stream where the session has ended the connection.
    fn turned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.session.has_ended()
            && let Some(mut link) = self.link.take()
        {
            while let Some(packet) = self.session.poll_packet() {
                link.send(&packet, &mut self.buffers);
            }
            // The reason is told as far as the socket takes it at once; a server that broke the rules, or is gone, is
            // not waited for.
            let _ = link.poll_close(cx, &mut self.buffers);
        }
        Poll::Ready(())
    }

    /// Why there is no connection.
    fn ending(&mut self) -> Disconnection {
        while let Some(event) = self.session.take_connected() {
            if let Event::Disconnected(why) = event {
                self.ended = why;
            }
        }
        self.ended.clone()
    }
}

fn now() -> Instant {
    // The runtime's clock, so that tests may move it.
    tokio::time::Instant::now().into_std()
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(error) => error.fmt(f),
            Self::Dial(error) => error.fmt(f),
            Self::Disconnected(why) => why.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::Refused(reason, None) => write!(f, "the server refused: {reason}"),
            Self::Refused(reason, Some(text)) => write!(f, "the server refused: {reason}, {text:?}"),
            Self::Forgotten => {
                f.write_str("the server forgot the message halfway; whether it arrived is unknown")
            }
        }
    }
}

impl std::error::Error for ClientError {}
