//! Tickets for sockets: a browser cannot set headers when it opens one, and a key in an address ends
//! up in logs and histories. A ticket opens one socket within a minute, and is worth nothing then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Caller;
use super::access::Role;
use super::keys::{self, KeyError};
use super::secret::Secret;

/// How long a ticket can be used.
pub const VALID_FOR: Duration = Duration::from_secs(60);

/// Most tickets of all callers that can be used at once.
const MAX_TICKETS: usize = 10_000;

/// Most tickets of one caller; the oldest goes for a new one.
const MAX_OF_CALLER: usize = 100;

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// Too many can be used already.
    #[error("too many tickets are waiting to be used")]
    TooMany,
    /// No random numbers.
    #[error(transparent)]
    Key(#[from] KeyError),
}

struct Ticket {
    caller: Caller,
    made: Instant,
}

/// Tickets that can still be used, by their hash: looking one up tells nothing of the others.
#[derive(Default)]
pub struct Tickets {
    waiting: Mutex<HashMap<[u8; 32], Ticket>>,
}

impl Tickets {
    /// A ticket for whoever asks. It gives no more than looking.
    ///
    /// # Errors
    /// Too many are waiting, or there are no random numbers.
    pub fn issue(&self, caller: &Caller) -> Result<Secret, TicketError> {
        self.issue_at(caller, Instant::now())
    }

    fn issue_at(&self, caller: &Caller, now: Instant) -> Result<Secret, TicketError> {
        let ticket = Secret::new(keys::random_text::<32>()?);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, ticket| is_fresh(ticket, now));
        let mut own = 0;
        let mut oldest: Option<([u8; 32], Instant)> = None;
        for (hash, other) in waiting.iter() {
            if other.caller.id != caller.id {
                continue;
            }
            own += 1;
            if oldest.is_none_or(|(_, made)| other.made < made) {
                oldest = Some((*hash, other.made));
            }
        }
        if let Some((hash, _)) = oldest.filter(|_| own >= MAX_OF_CALLER) {
            waiting.remove(&hash);
        }
        if waiting.len() >= MAX_TICKETS {
            return Err(TicketError::TooMany);
        }
        let caller = Caller {
            role: Role::Viewer,
            ..caller.clone()
        };
        let made = Ticket { caller, made: now };
        waiting.insert(keys::hash(ticket.expose()), made);
        Ok(ticket)
    }

    /// Whose ticket this is; it cannot be used again.
    pub fn redeem(&self, ticket: &Secret) -> Option<Caller> {
        self.redeem_at(ticket, Instant::now())
    }

    fn redeem_at(&self, ticket: &Secret, now: Instant) -> Option<Caller> {
        let hash = keys::hash(ticket.expose());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let found = waiting.remove(&hash)?;
        is_fresh(&found, now).then_some(found.caller)
    }
}

fn is_fresh(ticket: &Ticket, now: Instant) -> bool {
    now.saturating_duration_since(ticket.made) < VALID_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(id: &str) -> Caller {
        Caller {
            id: id.to_string(),
            name: String::new(),
            role: Role::Admin,
        }
    }

    #[test]
    fn a_ticket_is_good_once_for_a_minute_and_for_looking() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let ticket = tickets.issue_at(&caller("a"), now).unwrap();
        let late = now + VALID_FOR;
        let early = late - Duration::from_millis(1);
        assert_eq!(tickets.redeem_at(&Secret::new("x"), early), None);
        let found = tickets.redeem_at(&ticket, early).unwrap();
        assert_eq!((found.id.as_str(), found.role), ("a", Role::Viewer));
        assert_eq!(tickets.redeem_at(&ticket, early), None);
        let ticket = tickets.issue_at(&caller("a"), now).unwrap();
        assert_eq!(tickets.redeem_at(&ticket, late), None);
    }

    #[test]
    fn one_caller_cannot_take_all_tickets() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let first = tickets.issue_at(&caller("a"), now).unwrap();
        let other = tickets.issue_at(&caller("b"), now).unwrap();
        for step in 1..=MAX_OF_CALLER {
            let later = now + Duration::from_millis(step as u64);
            tickets.issue_at(&caller("a"), later).unwrap();
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(tickets.redeem_at(&first, later), None);
        assert!(tickets.redeem_at(&other, later).is_some());
        assert_eq!(tickets.waiting.lock().unwrap().len(), MAX_OF_CALLER);
    }
}
