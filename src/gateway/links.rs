//! Links: what they say, and what they are owed.

use std::task::{Context, Poll};

use tracing::{debug, trace};

use super::state::{Core, Slot, SlotState, now};
use crate::broker::{Input, LinkId, Now};
use crate::mqtt::{Packet, Publish, encode_publish};

/// Reads of one link before the others have their go: 4 × 64 KiB.
const READS_PER_TURN: usize = 4;

/// Unsent bytes of one link at which it is written before the turn ends, so that a burst does not gather in memory.
const FLUSH_EARLY_BYTES: usize = 32 * 1024;

/// Unsent bytes of answers at which a link is not read any more: who does not read its acknowledgements gets no new
/// ones. Messages do not count, the broker bounds them: a subscriber that is slow to take a flood must still be
/// heard, or its keep-alive would end it.
const READ_PAUSE_BYTES: usize = 64 * 1024;

/// What may be held for a link without the broker's knowing: a packet that happened to be cut at the end of a read.
const HOLDING_BYTES_UNTOLD: usize = 1024;

/// What is kept to encode packets for many links in; a larger one was an exception.
const ENCODED_BYTES_KEPT: usize = 4 * 1024;

impl Core {
    /// One go of a link's task; ready when the link is gone.
    pub(super) fn poll_link(&mut self, link: LinkId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.links.get_mut(link) else {
            return Poll::Ready(());
        };
        match &mut slot.task {
            Some(task) => task.clone_from(cx.waker()),
            None => slot.task = Some(cx.waker().clone()),
        }

        // Priority 1: the end. What the peer still says is read and forgotten meanwhile: it may not read its farewell
        // before it has said all, and a stream that is dropped with unread bytes is reset, farewell and all.
        if slot.state == SlotState::Closing {
            let is_closed = slot.link.poll_close(cx, &mut self.buffers).is_ready();
            let is_silent = slot.link.poll_discard(cx, &mut self.buffers).is_ready();
            if is_closed && is_silent || slot.permit.is_pending() && gives_way(slot, cx) {
                self.remove(link);
                return Poll::Ready(());
            }
            return Poll::Pending;
        }
        if slot.permit.is_pending() && gives_way(slot, cx) {
            self.lost(link, &"it said nothing and gave way to a newer connection");
            self.take_arisen();
            return Poll::Ready(());
        }

        // Priority 2: what the link is owed and the kernel would not take before.
        if slot.state == SlotState::Blocked {
            self.flush(link);
            self.take_arisen();
        }

        // Priority 3: what it has to say, within a budget, so that no link keeps the others waiting.
        for _ in 0..READS_PER_TURN {
            let Some(slot) = self.links.get_mut(link) else {
                return Poll::Ready(());
            };
            if slot.state == SlotState::Closing {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if slot.is_paused {
                return Poll::Pending; // woken when the broker wants to hear it again
            }
            if slot.has_unread {
                self.take_packets(link);
                self.take_arisen();
                continue;
            }
            if slot.unsent_answers_bytes >= READ_PAUSE_BYTES {
                self.flush(link);
                self.take_arisen();
                let Some(slot) = self.links.get(link) else {
                    return Poll::Ready(());
                };
                if slot.state == SlotState::Blocked {
                    return Poll::Pending; // woken when the kernel takes bytes again
                }
                continue;
            }
            match slot.link.poll_receive(cx, &mut self.buffers) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.lost(link, &"closed by the peer"),
                Poll::Ready(Ok(bytes)) => {
                    self.traffic.bytes_received += bytes as u64;
                    slot.received_bytes += bytes as u64;
                    self.take_packets(link);
                }
                Poll::Ready(Err(error)) => self.lost(link, &error),
            }
            self.take_arisen();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands the broker every whole packet that has arrived on `link`, as far as it wants to have them.
    pub(super) fn take_packets(&mut self, link: LinkId) {
        let now = now();
        while let Some(slot) = self.links.get_mut(link)
            && slot.state != SlotState::Closing
        {
            slot.has_unread = slot.is_paused;
            if slot.is_paused {
                break;
            }
            match slot.link.poll_packet() {
                Ok(None) => break,
                Ok(Some(packet)) => {
                    trace!(?link, packet = packet.name(), "received");
                    match &packet {
                        Packet::Publish(publish) => {
                            self.traffic.payload_bytes_received += publish.payload.len() as u64;
                        }
                        Packet::Connect(connect) => {
                            if let Some(claimed) = &mut slot.claimed {
                                claimed.note(connect);
                            }
                        }
                        Packet::Subscribe(_) => self.refresh_statistics(now, &packet),
                        _ => {}
                    }
                    self.step(now, Input::Received { link, packet });
                }
                Err(error) => {
                    debug!(?link, %error, "malformed packet");
                    let version = slot.link.version();
                    self.step(now, Input::Malformed { link, version, error });
                    break;
                }
            }
        }
        self.tell_holding(now, link);
        self.arm();
    }

    /// Tells the broker what is held for `link` where that has become much more or much less.
    #[inline(always)]
    pub(super) fn tell_holding(&mut self, now: Now, link: LinkId) {
        if let Some(slot) = self.links.get_mut(link)
            && slot.state != SlotState::Closing
            && slot.link.holding_bytes().abs_diff(slot.holding_bytes) > HOLDING_BYTES_UNTOLD
        {
            slot.holding_bytes = slot.link.holding_bytes();
            let bytes = slot.holding_bytes;
            self.step(now, Input::Holding { link, bytes });
        }
    }

    /// Stops or goes on reading a link.
    pub(super) fn set_paused(&mut self, link: LinkId, is_paused: bool) {
        if let Some(slot) = self.links.get_mut(link) {
            slot.is_paused = is_paused;
            if is_paused && slot.permit.is_pending() {
                slot.permit.hold(); // it waits for us
            }
            if let Some(task) = &slot.task
                && !is_paused
            {
                task.wake_by_ref();
            }
        }
    }

    pub(super) fn send(&mut self, link: LinkId, packet: &Packet) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        trace!(?link, packet = packet.name(), "sent");
        let before = slot.link.waiting();
        slot.link.send(packet, &mut self.buffers);
        let bytes = slot.link.waiting() - before;
        self.traffic.packets_sent += 1;
        self.traffic.bytes_sent += bytes as u64;
        match packet {
            Packet::Publish(publish) => self.traffic.payload_bytes_sent += publish.payload.len() as u64,
            _ => slot.unsent_answers_bytes += bytes,
        }
        // Most links that are sent something wait for the end of the turn already.
        if !slot.dirty || slot.link.waiting() >= FLUSH_EARLY_BYTES {
            self.plan_flush(link);
        }
    }

    /// Encodes `publish` once and hands the bytes to each link.
    #[inline(never)]
    pub(super) fn send_to_each(&mut self, links: &[LinkId], publish: &Publish) {
        // The broker puts links together that take the same bytes, so the first one's version is everybody's.
        let Some(version) = links
            .iter()
            .find_map(|&link| self.links.get(link))
            .map(|slot| slot.link.version_to_send())
        else {
            return;
        };
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        encode_publish(publish, version, &mut encoded);
        self.traffic.packets_sent += links.len() as u64;
        self.traffic.bytes_sent += (links.len() * encoded.len()) as u64;
        self.traffic.payload_bytes_sent += (links.len() * publish.payload.len()) as u64;
        for &link in links {
            let Some(slot) = self.links.get_mut(link) else {
                continue;
            };
            slot.link.send_encoded(&encoded, &mut self.buffers);
            if !slot.dirty || slot.link.waiting() >= FLUSH_EARLY_BYTES {
                self.plan_flush(link);
            }
        }
        if encoded.capacity() <= ENCODED_BYTES_KEPT {
            self.encoded = encoded;
        }
    }

    /// Sees to it that what `link` is owed is written: at once where much has gathered, or when the turn ends.
    pub(super) fn plan_flush(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        match slot.state {
            SlotState::Blocked => {}
            _ if slot.link.waiting() >= FLUSH_EARLY_BYTES => self.flush(link),
            _ if slot.dirty => {}
            _ => self.mark_dirty(link),
        }
    }

    pub(super) fn mark_dirty(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(link);
            if self.dirty.len() == 1
                && let Some(task) = &self.flush_task
            {
                task.wake_by_ref();
            }
        }
    }

    /// Writes what `link` is owed, as far as the kernel takes it.
    pub(super) fn flush(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        let Some(task) = &slot.task else { return };
        let mut cx = Context::from_waker(task);
        let unsent = slot.link.unsent();
        let outcome = slot.link.poll_flush(&mut cx, &mut self.buffers);
        slot.sent_bytes += unsent.saturating_sub(slot.link.unsent()) as u64;
        match (slot.state, outcome) {
            // Its own task finishes it: it also has to shut the stream down.
            (SlotState::Closing, _) => task.wake_by_ref(),
            (_, Poll::Ready(Ok(()))) => {
                slot.state = SlotState::Open;
                slot.unsent_answers_bytes = 0;
                self.arisen.push_back(Input::Flushed { link });
            }
            (_, Poll::Ready(Err(error))) => self.lost(link, &error),
            (_, Poll::Pending) => slot.state = SlotState::Blocked,
        }
    }

    /// One go of the flush task: the end of the turn.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flush_task = Some(cx.waker().clone());
        // What is marked while this runs waits for the next turn, so that links take turns in being written, too.
        std::mem::swap(&mut self.dirty, &mut self.writing);
        while let Some(link) = self.writing.pop() {
            if let Some(slot) = self.links.get_mut(link) {
                slot.dirty = false;
                self.flush(link);
            }
        }
        self.take_arisen();
        if self.store.is_some() {
            self.pass_on_changes();
        }
        Poll::Pending
    }
}

/// Whether `slot`, whose client is not in, has to make room for another. The task is woken when it has to.
#[inline(never)]
pub(super) fn gives_way(slot: &Slot, cx: &mut Context<'_>) -> bool {
    slot.permit.poll_gives_way(cx).is_ready()
}
