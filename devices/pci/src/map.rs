//! Which BARs answer where: what guests want, kept apart from what could be mapped.
//!
//! The registers say where each BAR is wanted. From that alone follows which BARs are mapped: taken
//! in the order of their functions' places on the bus, and of their numbers within a function, a BAR
//! is mapped unless it overlaps one before it, leaves the host bridge's windows, or lies on what is
//! the board's. So the order in which a guest writes its registers leaves no trace, and a BAR that
//! had to give way is back as soon as there is room for it.

use std::sync::Arc;

use trapline_device::{EditError, Region, RegionEdit, RegionId, RegionName, Regions, Space};

use crate::bus::Devfn;
use crate::config::{BarWindow, DECODERS};
use crate::function::Function;
use crate::windows::{BridgeWindow, WindowKind, translate};

/// The BARs of all functions, in the order of who is asked first.
pub(crate) struct BarMap {
    registry: Arc<dyn Regions>,
    windows: Vec<BridgeWindow>,
    bars: Vec<MappedBar>,
}

/// A BAR and the regions behind it.
struct MappedBar {
    devfn: Devfn,
    index: usize,
    len: u64,
    pieces: Vec<Piece>,
    /// Where it is wanted, as the processors have it.
    wanted: Option<(Space, u64)>,
    /// Where it is.
    mapped: Option<(Space, u64)>,
}

struct Piece {
    id: RegionId,
    name: RegionName,
    offset: u64,
}

impl BarMap {
    pub(crate) fn new(registry: Arc<dyn Regions>, windows: Vec<BridgeWindow>) -> Self {
        Self { registry, windows, bars: Vec::new() }
    }

    /// Registers the regions of a function, nowhere yet.
    pub(crate) fn add(&mut self, devfn: Devfn, function: &Function) -> Result<(), EditError> {
        let regions = function.bars().iter().flatten().map(|(_, region)| self.template(region));
        let edits: Vec<RegionEdit> = regions.clone().map(RegionEdit::Map).collect();
        let names: Vec<RegionName> = regions.map(|region| region.name).collect();
        let ids = if edits.is_empty() { Vec::new() } else { self.registry.edit(edits)? };
        let mut ids = ids.into_iter().zip(names);
        for (index, pieces) in function.bars().iter().enumerate() {
            let Some(len) = function.bar_len(index) else { continue };
            let pieces = pieces.iter().zip(ids.by_ref());
            let pieces =
                pieces.map(|((offset, _), (id, name))| Piece { id, name, offset: *offset });
            let pieces: Vec<Piece> = pieces.collect();
            let ends = pieces.iter().skip(1).map(|piece| piece.offset).chain([len]);
            let ranges = pieces.iter().zip(ends).map(|(piece, end)| (piece.offset..end, piece.id));
            let ranges: Vec<_> = ranges.collect();
            function.followed(index).for_each(|regions| {
                regions.appear(Arc::clone(&self.registry), ranges.clone());
            });
            let bar = MappedBar { devfn, index, len, pieces, wanted: None, mapped: None };
            self.bars.push(bar);
        }
        self.bars.sort_by_key(|bar| (bar.devfn, bar.index));
        Ok(())
    }

    /// Takes the regions of a function out again.
    pub(crate) fn remove(&mut self, devfn: Devfn) {
        let (gone, left) = self.bars.drain(..).partition(|bar| bar.devfn == devfn);
        self.bars = left;
        let gone: Vec<MappedBar> = gone;
        let pieces = gone.iter().flat_map(|bar| &bar.pieces);
        // Regions that are not there any more are no error, and nothing else can go wrong.
        let _ = self.registry.edit(pieces.map(|piece| RegionEdit::Unmap(piece.id)).collect());
    }

    /// A copy in the space that the processors have it in: an I/O BAR may be memory to them.
    fn template(&self, region: &Region) -> Region {
        let ports = self.windows.iter().find(|window| window.kind == WindowKind::Io);
        let space = match region.space {
            Space::Pio => ports.map_or(Space::Pio, |window| window.space),
            Space::Mmio => Space::Mmio,
        };
        Region { space, ..region.clone() }
    }

    /// Whether a BAR is not where it is wanted.
    pub(crate) fn is_contended(&self) -> bool {
        self.bars.iter().any(|bar| bar.wanted != bar.mapped)
    }

    /// Maps every BAR where its registers want it, as far as that can be, in one edit.
    pub(crate) fn update(&mut self, functions: &[(Devfn, Arc<Function>)]) {
        for (devfn, function) in functions {
            self.want(*devfn, &function.windows());
        }
        self.place_all();
    }

    /// Looks where the registers want the BARs, unless somebody has registers locked.
    pub(crate) fn try_read_registers(&mut self, functions: &[(Devfn, Arc<Function>)]) -> bool {
        let read =
            functions.iter().map(|(devfn, function)| Some((*devfn, function.try_windows()?)));
        let Some(read) = read.collect::<Option<Vec<_>>>() else { return false };
        read.iter().for_each(|(devfn, windows)| self.want(*devfn, windows));
        true
    }

    fn want(&mut self, devfn: Devfn, decoded: &[Option<BarWindow>; DECODERS]) {
        for bar in self.bars.iter_mut().filter(|bar| bar.devfn == devfn) {
            let window = decoded.get(bar.index).and_then(Option::as_ref);
            bar.wanted = window.and_then(|window| translate(&self.windows, window));
        }
    }

    /// Maps every BAR where it is wanted, as far as that can be, in one edit.
    pub(crate) fn place_all(&mut self) {
        let mut refused = vec![false; self.bars.len()];
        // Each round either ends it, or leaves out one more.
        loop {
            let places = self.choose(&refused);
            let Err(error) = self.apply(&places) else {
                self.bars.iter_mut().zip(places).for_each(|(bar, place)| bar.mapped = place);
                return;
            };
            let culprit = self.bars.iter().zip(&refused).position(|(bar, refused)| {
                !refused && bar.pieces.iter().any(|piece| concerns(&error, &piece.name))
            });
            match culprit.and_then(|index| refused.get_mut(index)) {
                Some(culprit) => *culprit = true,
                None => {
                    tracing::debug!("BARs stay where they are: {error}");
                    return;
                }
            }
        }
    }

    /// Where each BAR goes, leaving out those `refused`.
    fn choose(&self, refused: &[bool]) -> Vec<Option<(Space, u64)>> {
        let mut taken: Vec<(Space, std::ops::Range<u64>)> = Vec::new();
        let choose = |(bar, refused): (&MappedBar, &bool)| {
            let (space, base) = bar.wanted.filter(|_| !refused)?;
            let range = base..base.checked_add(bar.len)?;
            let free = !taken.iter().any(|(other, before)| {
                *other == space && before.start < range.end && range.start < before.end
            });
            free.then(|| {
                taken.push((space, range));
                (space, base)
            })
        };
        self.bars.iter().zip(refused).map(choose).collect()
    }

    /// Moves what is not where `places` say, all in one edit.
    fn apply(&self, places: &[Option<(Space, u64)>]) -> Result<(), EditError> {
        let changes = self.bars.iter().zip(places).filter(|(bar, place)| bar.mapped != **place);
        let moves = changes.flat_map(|(bar, place)| {
            let base = place.map(|(_, base)| base);
            let pieces = bar.pieces.iter();
            pieces.map(move |piece| (piece.id, base.map(|base| base + piece.offset)))
        });
        let moves: Vec<_> = moves.collect();
        if moves.is_empty() { Ok(()) } else { self.registry.place(&moves) }
    }
}

impl Drop for BarMap {
    /// Takes the functions' regions out of the registry: whoever still looks on in it does not keep devices
    /// of a machine that is no more.
    fn drop(&mut self) {
        let pieces = self.bars.iter().flat_map(|bar| &bar.pieces);
        let _ = self.registry.edit(pieces.map(|piece| RegionEdit::Unmap(piece.id)).collect());
    }
}

/// Whether the refusal is about this region.
fn concerns(error: &EditError, name: &RegionName) -> bool {
    match error {
        EditError::Overlap { wanted, existing, .. } => wanted == name || existing == name,
        EditError::Empty { name: other }
        | EditError::PastEnd { name: other, .. }
        | EditError::Window { name: other, .. }
        | EditError::Delivery { name: other, .. }
        | EditError::Offload { name: other, .. }
        | EditError::Listener { name: other, .. }
        | EditError::Full { name: other, .. } => other == name,
        _ => false,
    }
}
