//! The macro that writes a saved form and its two conversions.

/// Declares one released layout of a device's saved state, and how it follows from the run-time
/// state and back.
///
/// Both conversions name every field of both structs, so a field that is new in the state does not
/// compile until somebody has decided about it. Fields have the same names on both sides and are
/// converted with [`From`]; `=> each` converts the elements of an array, `=> list` those of any
/// other collection, which becomes a `Vec`.
///
/// With a name and a version the form is a [`Form`](crate::Form), with `From<&State>` and
/// `TryFrom` for the state. The latter asks the state's `check(&self) -> Result<(), StateError>`
/// whether a device is ever in that state, unless the form is `unchecked`, as any value of its
/// fields can be. Without name and version it is a part of a form, with `From` both ways.
///
/// ```
/// use trapline_device::{Saved, StateError, saved_form};
///
/// #[derive(Clone, Default)]
/// struct State { latch: u8, channels: [Channel; 2] }
///
/// #[derive(Clone, Default)]
/// struct Channel { count: u16 }
///
/// saved_form! {
///     /// [`State`], version 1.
///     struct SavedV1 of State, "toy" version 1 {
///         latch: u8,
///         channels: [ChannelV1; 2] => each,
///     }
/// }
///
/// saved_form! {
///     struct ChannelV1 of Channel {
///         count: u16,
///     }
/// }
///
/// impl State {
///     fn check(&self) -> Result<(), StateError> {
///         StateError::check::<SavedV1>(self.latch < 4, "the latch has two bits")
///     }
/// }
///
/// let state = State { latch: 3, ..State::default() };
/// let back = State::try_from(Saved::encode(&SavedV1::from(&state)).decode::<SavedV1>()?)?;
/// assert_eq!(back.latch, 3);
/// # Ok::<(), StateError>(())
/// ```
#[macro_export]
macro_rules! saved_form {
    (
        $(#[$attr:meta])*
        $vis:vis struct $form:ident of $state:ident, $name:literal version $version:literal
        $($unchecked:ident)? {
            $($field:ident: $ty:ty $(=> $how:ident)?),* $(,)?
        }
    ) => {
        $crate::saved_form! {
            @layout $(#[$attr])* $vis struct $form of $state { $($field: $ty $(=> $how)?),* }
        }

        impl $crate::Form for $form {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        }

        impl ::core::convert::From<&$state> for $form {
            fn from(state: &$state) -> Self {
                Self::keep(state)
            }
        }

        impl ::core::convert::TryFrom<$form> for $state {
            type Error = $crate::StateError;

            fn try_from(saved: $form) -> ::core::result::Result<Self, $crate::StateError> {
                let state = saved.give_back();
                $crate::saved_form!(@check state $($unchecked)?);
                ::core::result::Result::Ok(state)
            }
        }
    };
    (
        $(#[$attr:meta])*
        $vis:vis struct $form:ident of $state:ident {
            $($field:ident: $ty:ty $(=> $how:ident)?),* $(,)?
        }
    ) => {
        $crate::saved_form! {
            @layout $(#[$attr])* $vis struct $form of $state { $($field: $ty $(=> $how)?),* }
        }

        impl ::core::convert::From<$state> for $form {
            fn from(state: $state) -> Self {
                Self::keep(&state)
            }
        }

        impl ::core::convert::From<$form> for $state {
            fn from(saved: $form) -> Self {
                saved.give_back()
            }
        }
    };
    (
        @layout $(#[$attr:meta])* $vis:vis struct $form:ident of $state:ident {
            $($field:ident: $ty:ty $(=> $how:ident)?),*
        }
    ) => {
        $(#[$attr])*
        #[derive(Debug, ::serde::Serialize, ::serde::Deserialize)]
        $vis struct $form {
            $($field: $ty),*
        }

        impl $form {
            fn keep(state: &$state) -> Self {
                let $state { $($field),* } = ::core::clone::Clone::clone(state);
                Self { $($field: $crate::saved_form!(@convert $field $($how)?)),* }
            }

            fn give_back(self) -> $state {
                let Self { $($field),* } = self;
                $state { $($field: $crate::saved_form!(@convert $field $($how)?)),* }
            }
        }
    };
    (@check $state:ident) => { $state.check()? };
    (@check $state:ident unchecked) => {};
    (@convert $field:ident) => { ::core::convert::From::from($field) };
    (@convert $field:ident each) => { $field.map(::core::convert::From::from) };
    (@convert $field:ident list) => {
        $field.into_iter().map(::core::convert::From::from).collect()
    };
}
