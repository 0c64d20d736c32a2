//! The macro that implements reset, save and restore for a device with one lock.

/// Implements [`Device`](crate::Device) and [`SaveState`](crate::SaveState) for a device that has
/// its whole state behind one lock, in the field named last. Reset makes it its default, restore
/// what was saved in the form named second (see [`saved_form!`](crate::saved_form!)).
///
/// With `then` and a method's name, that method is called with the state, still locked, each time it
/// was replaced: it puts lines and timers where the state says.
///
/// ```
/// use parking_lot::Mutex;
/// use trapline_device::{Device, Line, SaveState, StateError, device_state, saved_form};
///
/// struct Toy { line: Line, state: Mutex<State> }
///
/// #[derive(Clone, Default)]
/// struct State { raised: bool }
///
/// saved_form! {
///     struct ToyV1 of State, "toy" version 1 unchecked { raised: bool }
/// }
///
/// device_state!(Toy, ToyV1, state, then sync);
///
/// impl Toy {
///     fn sync(&self, state: &State) {
///         self.line.set(state.raised);
///     }
/// }
///
/// let toy = Toy { line: Line::unconnected(), state: Mutex::new(State { raised: true }) };
/// let saved = toy.save();
/// toy.reset();
/// assert!(!toy.state.lock().raised);
/// toy.restore(&saved)?;
/// assert!(toy.line.level());
/// # Ok::<(), StateError>(())
/// ```
#[macro_export]
macro_rules! device_state {
    ($device:ty, $form:ty, $state:tt $(, then $sync:ident)?) => {
        impl $crate::Device for $device {
            fn reset(&self) {
                let state = &mut *self.$state.lock();
                *state = ::core::default::Default::default();
                $(self.$sync(state);)?
            }
        }

        impl $crate::SaveState for $device {
            fn save(&self) -> $crate::Saved {
                $crate::Saved::encode(&<$form>::from(&*self.$state.lock()))
            }

            fn restore(
                &self,
                saved: &$crate::Saved,
            ) -> ::core::result::Result<(), $crate::StateError> {
                let restored = saved.decode::<$form>()?.try_into()?;
                let state = &mut *self.$state.lock();
                *state = restored;
                $(self.$sync(state);)?
                ::core::result::Result::Ok(())
            }
        }
    };
}
