use proptest::prelude::*;
use trapline_device::{DirtyBitmap, Memory};
use trapline_guestmem::Piece;

use super::*;

/// 100 by 40 pixels: seven tiles across, the last of four columns; three down, the last of eight
/// lines.
fn small() -> (GuestMem, Screen) {
    let mode = Mode::new(100, 40).unwrap();
    let frame = GuestMem::new(&[(0, mode.memory_len().into())]).unwrap();
    (frame.clone(), Screen::new(mode, frame.clone(), Written::to(&frame)))
}

/// A log of what this process writes, which in tests is all there is.
pub(crate) struct Written(Piece);

impl Written {
    pub(crate) fn to(mem: &GuestMem) -> Box<dyn DirtyLog> {
        let piece = mem.pieces().remove(0);
        piece.log_writes(true);
        Box::new(Self(piece))
    }
}

impl DirtyLog for Written {
    fn take(&self) -> DirtyBitmap {
        let mut written = DirtyBitmap::new(self.0.len(), self.0.page_size());
        self.0.take_written(&mut written);
        written
    }
}

fn draw(frame: &GuestMem, x: u64, y: u64, colour: u32) {
    frame.write(y * 400 + x * 4, &colour.to_le_bytes()).unwrap();
}

fn news(screen: &Screen, seen: &mut Seen) -> Vec<Rect> {
    screen.update();
    screen.news(seen, Rect::whole(screen.mode()), false)
}

#[test]
fn what_is_drawn_is_news_once_for_every_viewer() {
    let (frame, screen) = small();
    let (mut a, mut b) = (screen.unseen(), screen.unseen());
    assert_eq!(news(&screen, &mut a), []);
    draw(&frame, 17, 3, 0xff_ffff);
    let tile = Rect { x: 16, y: 0, width: 16, height: 16 };
    assert_eq!(news(&screen, &mut a), [tile]);
    assert_eq!(news(&screen, &mut a), []);
    draw(&frame, 99, 39, 1);
    let corner = Rect { x: 96, y: 32, width: 4, height: 8 };
    assert_eq!(news(&screen, &mut a), [corner]);
    assert_eq!(news(&screen, &mut b), [tile, corner]);
}

#[test]
fn writing_what_is_there_already_is_no_news() {
    let (frame, screen) = small();
    let mut seen = screen.unseen();
    news(&screen, &mut seen);
    draw(&frame, 0, 0, 0);
    assert_eq!(news(&screen, &mut seen), []);
}

#[test]
fn neighbours_are_one_rectangle() {
    let (frame, screen) = small();
    let mut seen = screen.unseen();
    for (x, y) in [(0, 0), (16, 0), (0, 16), (16, 16), (64, 16)] {
        draw(&frame, x, y, 7);
    }
    let square = Rect { x: 0, y: 0, width: 32, height: 32 };
    let alone = Rect { x: 64, y: 16, width: 16, height: 16 };
    assert_eq!(news(&screen, &mut seen), [square, alone]);
}

#[test]
fn news_outside_the_area_asked_for_stay_news() {
    let (frame, screen) = small();
    let mut seen = screen.unseen();
    draw(&frame, 0, 0, 7);
    draw(&frame, 50, 0, 7);
    screen.update();
    let left = Rect { x: 0, y: 0, width: 5, height: 5 };
    assert_eq!(screen.news(&mut seen, left, false).len(), 1);
    assert_eq!(screen.news(&mut seen, left, true), [left]);
    let rest = screen.news(&mut seen, Rect::whole(screen.mode()), false);
    assert_eq!(rest, [Rect { x: 48, y: 0, width: 16, height: 16 }]);
}

#[test]
fn a_picture_is_written_as_png_and_read_back() {
    let (frame, screen) = small();
    draw(&frame, 1, 2, 0x12_34_56);
    let picture = screen.picture();
    let at = (2 * 100 + 1) * 3;
    assert_eq!(picture.rgb()[at..at + 3], [0x12, 0x34, 0x56]);
    assert_eq!(picture.rgb().iter().filter(|level| **level != 0).count(), 3);

    let mut file = Vec::new();
    picture.write_png(&mut file).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (100, 40));
    assert_eq!(pixels, picture.rgb());
}

#[test]
fn a_reset_makes_the_picture_black() {
    let (frame, screen) = small();
    draw(&frame, 50, 20, 0xff_ffff);
    screen.picture();
    screen.clear();
    assert!(screen.picture().rgb().iter().all(|level| *level == 0));
}

#[test]
fn a_screen_was_drawn_on_if_anything_could_be_seen_since_the_reset() {
    let (frame, screen) = small();
    assert!(!screen.was_drawn_on());
    // Black, and what is not shown.
    draw(&frame, 50, 20, 0);
    draw(&frame, 50, 20, 0xff00_0000);
    assert!(!screen.was_drawn_on());
    draw(&frame, 99, 39, 1);
    assert!(screen.was_drawn_on() && screen.was_drawn_on());
    // Taken away after somebody has looked.
    draw(&frame, 99, 39, 0);
    assert!(screen.was_drawn_on());
    screen.clear();
    assert!(!screen.was_drawn_on());
    // The same again, and nobody has looked meanwhile.
    for _ in 0..3 {
        draw(&frame, 3, 3, 0xff_ffff);
        assert!(screen.was_drawn_on());
        screen.clear();
    }
    assert!(!screen.was_drawn_on());
}

proptest! {
    #[test]
    fn a_viewer_who_repaints_the_news_sees_the_frame_buffer(
        drawn in prop::collection::vec(prop::collection::vec((0u64..100, 0u64..40, 1u32..9), 0..9), 1..9),
    ) {
        let (frame, screen) = small();
        let mut seen = screen.unseen();
        let (mut viewer, mut wanted) = (vec![0u8; 16000], vec![0u8; 16000]);
        for round in drawn {
            for (x, y, colour) in round {
                draw(&frame, x, y, colour);
                let at = usize::try_from(y * 400 + x * 4).unwrap();
                wanted[at..at + 4].copy_from_slice(&colour.to_le_bytes());
            }
            let news = news(&screen, &mut seen);
            for (i, rect) in news.iter().enumerate() {
                prop_assert_eq!(rect.clip(screen.mode()), Some(*rect));
                prop_assert!(!news[..i].iter().any(|other| other.touches(*rect)));
                let mut row = usize::from(rect.y);
                screen.lines(*rect, |line| {
                    let at = row * 400 + usize::from(rect.x) * 4;
                    viewer[at..at + line.len()].copy_from_slice(line);
                    row += 1;
                });
            }
            prop_assert_eq!(&viewer, &wanted);
        }
    }

    #[test]
    fn no_area_is_too_strange(
        x: u16, y: u16, width: u16, height: u16, all: bool,
    ) {
        let (frame, screen) = small();
        draw(&frame, 99, 39, 7);
        screen.update();
        let area = Rect { x, y, width, height };
        for rect in screen.news(&mut screen.unseen(), area, all) {
            prop_assert!(rect.touches(area) && rect.clip(screen.mode()) == Some(rect));
        }
        let mut count = 0;
        screen.lines(area, |line| count += line.len() / 4);
        prop_assert_eq!(count, area.clip(screen.mode()).map_or(0, Rect::pixels));
        prop_assert!(area.around(area) == area || area.right() > 65535 || area.bottom() > 65535);
    }
}
