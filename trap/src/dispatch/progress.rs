//! How far an access has come whose maker was called away while somebody outside was to answer.

use std::sync::Arc;

use trapline_access::{Answer, ChannelRef, Requester, Waiter};

/// What an access has done already, so that it can be made again from its beginning without doing
/// any of that twice: the parts of it that are done, and of the part under way the commands that were
/// answered.
///
/// Nothing is kept for whoever cannot be called away: such an access goes through in one go. The
/// accesses of a vCPU have at most as many parts as a string has elements.
#[derive(Default)]
pub(crate) struct Progress {
    waiter: Option<Arc<dyn Waiter>>,
    parts: Vec<u64>,
    commands: Vec<u64>,
    part: usize,
    command: usize,
    /// Whether the access before this one was interrupted, so that this one is the same.
    resumes: bool,
    /// Who was to answer that one.
    left: Option<ChannelRef>,
    interrupted: bool,
    told_nothing: bool,
}

impl Progress {
    pub(crate) fn set_waiter(&mut self, waiter: Arc<dyn Waiter>) {
        self.waiter = Some(waiter);
    }

    pub(crate) fn waiter(&self) -> Option<&dyn Waiter> {
        self.waiter.as_deref()
    }

    /// An access begins, which is the one that was interrupted if one was.
    pub(crate) fn begin(&mut self) {
        if std::mem::take(&mut self.resumes) {
            self.left = None;
        } else {
            self.parts.clear();
            self.commands.clear();
        }
        (self.part, self.command) = (0, 0);
    }

    /// The access of `requester` that was interrupted will not be made again.
    pub(crate) fn forget(&mut self, requester: Requester) {
        if std::mem::take(&mut self.resumes)
            && let Some(channel) = self.left.take()
        {
            channel.get().forget(requester);
        }
        self.interrupted = false;
    }

    /// Whether the access was interrupted. Asked once.
    pub(crate) fn take_interrupted(&mut self) -> bool {
        std::mem::take(&mut self.interrupted)
    }

    /// Whether the access is interrupted.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Whether it was a read that nobody was to answer. Asked once.
    pub(crate) fn take_told_nothing(&mut self) -> bool {
        std::mem::take(&mut self.told_nothing)
    }

    pub(crate) fn tell_nothing(&mut self) {
        self.told_nothing = true;
    }

    /// What the next part of the access has read, if it was made before.
    pub(crate) fn next_part(&mut self) -> Option<u64> {
        let value = self.parts.get(self.part).copied()?;
        self.part += 1;
        Some(value)
    }

    /// A part of the access was made.
    pub(crate) fn end_part(&mut self, value: u64) {
        if self.waiter.is_some() {
            self.parts.push(value);
            self.commands.clear();
            (self.part, self.command) = (self.part + 1, 0);
        }
    }

    /// The answer of `channel` to the next command: that of before, or what `ask` comes back with.
    pub(crate) fn command(
        &mut self,
        channel: &ChannelRef,
        ask: impl FnOnce(&Self) -> Answer,
    ) -> Answer {
        if let Some(value) = self.commands.get(self.command) {
            self.command += 1;
            return Answer::Done(*value);
        }
        let answer = ask(self);
        match answer {
            Answer::Done(value) if self.waiter.is_some() => {
                self.commands.push(value);
                self.command += 1;
            }
            Answer::Interrupted => {
                (self.resumes, self.interrupted) = (true, true);
                self.left = Some(channel.clone());
            }
            Answer::Done(_) | Answer::Gone => {}
        }
        answer
    }
}
