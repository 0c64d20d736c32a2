#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails stops")]

use super::*;

const PAGE: u64 = 0x1000;

/// Memory as a guest would see it.
struct Bytes(Mutex<Vec<u8>>);

impl Memory for Bytes {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.0.lock().unwrap()[at..at + data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
    }
}

/// What is shown where, and what the host says to it.
struct Host {
    shown: Mutex<BTreeMap<u64, Arc<dyn Memory>>>,
    answer: Mutex<Showing>,
    /// Offset, whether it was free.
    asked: Mutex<Vec<(u64, bool)>>,
}

impl Host {
    fn new() -> Arc<Self> {
        let answer = Mutex::new(Showing::Shown);
        Arc::new(Self { shown: Mutex::default(), answer, asked: Mutex::default() })
    }

    fn answers(&self, answer: Showing) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The bytes that a guest sees at `offset`, if any.
    fn see<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let shown = self.shown.lock().unwrap();
        let (start, memory) = shown.range(..=offset).next_back()?;
        let mut data = [0; N];
        (offset - start < memory.len()).then(|| memory.read(offset - start, &mut data))?;
        Some(data)
    }

    fn asked(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl MirrorHost for Host {
    fn memory(&self, len: u64, all_ones: bool) -> Option<Arc<dyn Memory>> {
        let fill = if all_ones { 0xff } else { 0x5a };
        Some(Arc::new(Bytes(Mutex::new(vec![fill; usize::try_from(len).unwrap()]))))
    }

    fn show(&self, offset: u64, memory: &Arc<dyn Memory>, free: bool) -> Showing {
        self.asked.lock().unwrap().push((offset, free));
        let answer = *self.answer.lock().unwrap();
        if answer == Showing::Shown {
            let before = self.shown.lock().unwrap().insert(offset, Arc::clone(memory));
            assert!(before.is_none(), "shown twice");
        }
        answer
    }

    fn hide(&self, offset: u64, memory: &Arc<dyn Memory>) {
        let hidden = self.shown.lock().unwrap().remove(&offset).unwrap();
        assert!(Arc::ptr_eq(&hidden, memory));
    }
}

fn read(mirror: &Mirror, offset: u64, times: u32) {
    (0..times).for_each(|_| mirror.read(offset));
}

#[test]
fn a_page_is_shown_once_reads_are_worth_it_and_never_after_it_was_withdrawn() {
    let (mirror, host) = (Mirror::new(), Host::new());
    read(&mirror, 0, 100);
    assert!(mirror.attach(host.clone()));
    read(&mirror, 0, 100);
    mirror.vouch(0, PAGE, &[1, 2, 3, 4, 5]);
    read(&mirror, 7, READS_WORTH_A_SWITCH - 1);
    read(&mirror, PAGE, 100);
    assert_eq!(host.see::<1>(0), None, "reads of nothing, of others, and too few of it");
    mirror.read(PAGE - 1);
    assert_eq!(host.see(0), Some([1, 2, 3, 4, 5, 0xff, 0xff]), "ones behind the values");
    assert_eq!(host.see(PAGE - 2), Some([0xff, 0xff]));
    assert_eq!((mirror.bytes_shown(), mirror.times_shown()), (PAGE, 1));
    assert_eq!(host.asked(), [(0, false)]);
    mirror.withdraw(0);
    assert_eq!((host.see::<1>(0), mirror.bytes_shown()), (None, 0));
    read(&mirror, 0, 100);
    assert_eq!(host.see::<1>(0), None, "nobody vouches for it");
    mirror.vouch(0, PAGE, &[9]);
    read(&mirror, 0, READS_WORTH_A_SWITCH - 1);
    assert_eq!(host.see::<1>(0), None, "reads from before do not count");
    mirror.read(0);
    assert_eq!(host.see(0), Some([9, 0xff, 0xff]), "nothing is left of the earlier values");
}

#[test]
fn values_change_where_they_are_seen() {
    let (mirror, host) = (Mirror::at_once(), Host::new());
    mirror.attach(host.clone());
    mirror.vouch(PAGE, PAGE, &[1; 10]);
    assert_eq!(host.see(PAGE + 8), Some([1, 1, 0xff]), "at once");
    mirror.vouch(PAGE, PAGE, &[1, 1, 1, 1, 1, 7, 1, 1, 1, 1, 8]);
    assert_eq!(host.see(PAGE + 4), Some([1, 7, 1, 1, 1, 1, 8, 0xff]));
    mirror.vouch(PAGE, PAGE, &[2, 2]);
    assert_eq!(host.see(PAGE), Some([2, 2, 0xff, 0xff, 0xff, 0xff]), "fewer than before");
    assert_eq!(host.asked(), [(PAGE, true)], "without being taken away");
}

#[test]
fn a_page_that_is_all_ones_gets_memory_of_its_own_when_it_is_not_any_more() {
    let (mirror, host) = (Mirror::at_once(), Host::new());
    mirror.attach(host.clone());
    mirror.vouch(0, PAGE, &[]);
    let ones = Arc::clone(&host.shown.lock().unwrap()[&0]);
    mirror.vouch(0, PAGE, &[3]);
    assert_eq!(host.see(0), Some([3, 0xff]));
    let mut first = [0];
    ones.read(0, &mut first);
    assert_eq!(first, [0xff], "others may see the same ones");
    mirror.vouch(0, PAGE, &[]);
    assert_eq!(host.see(0), Some([0xff, 0xff]));
}

#[test]
fn what_is_shown_at_once_is_not_after_it_was_withdrawn() {
    let (mirror, host) = (Mirror::at_once(), Host::new());
    mirror.vouch(0, PAGE, &[1]);
    mirror.vouch(PAGE, PAGE, &[2]);
    mirror.vouch(2 * PAGE, 4 * PAGE, &[]);
    mirror.withdraw(PAGE);
    mirror.attach(host.clone());
    assert_eq!(mirror.bytes_shown(), 5 * PAGE);
    assert_eq!(host.asked(), [(0, true), (2 * PAGE, true)]);
    mirror.vouch(PAGE, PAGE, &[2]);
    assert_eq!(host.see::<1>(PAGE), None);
    read(&mirror, PAGE + 1, READS_WORTH_A_SWITCH);
    assert_eq!((host.see(PAGE), host.asked()), (Some([2]), vec![(PAGE, false)]));
    mirror.forget(2 * PAGE);
    mirror.vouch(3 * PAGE, PAGE, &[4]);
    assert_eq!((host.see::<1>(2 * PAGE), host.see(3 * PAGE)), (None, Some([4])));
}

#[test]
fn a_host_that_refuses_is_asked_later_or_never_again() {
    let (mirror, host) = (Mirror::new(), Host::new());
    mirror.attach(host.clone());
    mirror.vouch(0, PAGE, &[1]);
    host.answers(Showing::NotNow);
    read(&mirror, 0, 10 * READS_WORTH_A_SWITCH);
    assert_eq!(host.asked().len(), 10, "no more often than it would be worth");
    host.answers(Showing::Never);
    read(&mirror, 0, 10 * READS_WORTH_A_SWITCH);
    assert_eq!(host.asked().len(), 1);
    host.answers(Showing::Shown);
    read(&mirror, 0, 10 * READS_WORTH_A_SWITCH);
    assert_eq!(host.asked().len(), 0);
    mirror.detach();
    mirror.attach(host.clone());
    read(&mirror, 0, READS_WORTH_A_SWITCH);
    assert_eq!(host.see(0), Some([1]), "another place, another try");
}

#[test]
fn a_mirror_has_one_host_which_shows_nothing_once_it_is_detached() {
    let (mirror, host, other) = (Mirror::new(), Host::new(), Host::new());
    assert!(mirror.attach(host.clone()));
    assert!(!mirror.attach(other.clone()));
    mirror.vouch(0, PAGE, &[1]);
    read(&mirror, 0, READS_WORTH_A_SWITCH);
    mirror.detach();
    assert_eq!(host.see::<1>(0), None);
    read(&mirror, 0, 100);
    assert!(mirror.attach(other.clone()));
    assert_eq!(other.see::<1>(0), None, "reads that nobody could answer otherwise do not count");
    read(&mirror, 0, READS_WORTH_A_SWITCH);
    assert_eq!((host.see::<1>(0), other.see(0)), (None, Some([1])));
}
