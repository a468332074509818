//! Palettes: what a person asks for, checked.

use super::color::Rgb8;

/// The most colours a palette may hold.
pub const MAX_COLORS: usize = 64;

/// What a palette colour is for. Declaration order is the order in which positional colours are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The largest region that is not background.
    Primary,
    /// The second largest.
    Secondary,
    /// The most colourful small region.
    Accent,
    /// The largest region on the picture's border.
    Background,
    /// The lightest region left.
    Highlight,
}

impl Role {
    /// Every role, in positional order.
    pub const ALL: [Role; 5] = [Role::Primary, Role::Secondary, Role::Accent, Role::Background, Role::Highlight];

    /// The lower-case name used in palette files.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Secondary => "secondary",
            Role::Accent => "accent",
            Role::Background => "background",
            Role::Highlight => "highlight",
        }
    }
}

/// A brand palette. Colours are distinct and in the order given; at least one, at most [`MAX_COLORS`].
#[derive(Debug, Clone, PartialEq)]
pub struct Palette {
    name: String,
    description: Option<String>,
    colors: Vec<Rgb8>,
    roles: Vec<(Role, Rgb8)>,
    pins: Vec<(Rgb8, Rgb8)>,
    protect: Vec<Rgb8>,
}

/// Why a palette was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaletteError {
    /// No colours.
    #[error("palette \"{0}\" has no colours; give it at least one, such as \"#264653\"")]
    Empty(String),
    /// Too many colours.
    #[error("palette \"{name}\" has {got} colours; the limit is {MAX_COLORS}")]
    TooMany {
        /// The palette's name.
        name: String,
        /// Distinct colours given.
        got: usize,
    },
    /// No name.
    #[error("a palette has an empty name; name it, the file names are made from it")]
    Unnamed,
    /// A role or pin names a colour that is not among the palette's colours.
    #[error("palette \"{name}\" gives {what} the colour {color}, which is not one of its colours")]
    Foreign {
        /// The palette's name.
        name: String,
        /// The role or pin.
        what: String,
        /// The colour that is not in the palette.
        color: Rgb8,
    },
}

impl Palette {
    /// A palette of plain colours. Repeated colours are kept once.
    ///
    /// # Errors
    /// [`PaletteError`] when the name is blank or there are no colours or too many.
    pub fn new(name: impl Into<String>, colors: impl IntoIterator<Item = Rgb8>) -> Result<Self, PaletteError> {
        let name = name.into();
        if name.trim().is_empty() {
            return Err(PaletteError::Unnamed);
        }
        let mut distinct: Vec<Rgb8> = Vec::new();
        for color in colors {
            if !distinct.contains(&color) {
                distinct.push(color);
            }
        }
        match distinct.len() {
            0 => Err(PaletteError::Empty(name)),
            got if got > MAX_COLORS => Err(PaletteError::TooMany { name, got }),
            _ => Ok(Self {
                name,
                description: None,
                colors: distinct,
                roles: Vec::new(),
                pins: Vec::new(),
                protect: Vec::new(),
            }),
        }
    }

    /// Adds a description.
    #[must_use]
    pub fn described(mut self, description: Option<String>) -> Self {
        self.description = description;
        self
    }

    /// Says which colour plays which role; sorted by role, the last entry of a role wins.
    ///
    /// # Errors
    /// [`PaletteError::Foreign`] when a colour is not in the palette.
    pub fn with_roles(mut self, roles: impl IntoIterator<Item = (Role, Rgb8)>) -> Result<Self, PaletteError> {
        for (role, color) in roles {
            self.require(color, || format!("role {}", role.name()))?;
            self.roles.retain(|(r, _)| *r != role);
            self.roles.push((role, color));
        }
        self.roles.sort();
        Ok(self)
    }

    /// Pins source colours to palette colours: the region nearest the first becomes the second.
    ///
    /// # Errors
    /// [`PaletteError::Foreign`] when a target is not in the palette.
    pub fn with_pins(mut self, pins: impl IntoIterator<Item = (Rgb8, Rgb8)>) -> Result<Self, PaletteError> {
        for (from, to) in pins {
            self.require(to, || format!("pin {from}"))?;
            self.pins.retain(|(f, _)| *f != from);
            self.pins.push((from, to));
        }
        self.pins.sort();
        Ok(self)
    }

    /// The palette without one of its colours, and without the role and the pins that it has; unchanged where it is the only one.
    #[must_use]
    pub fn without(mut self, color: Rgb8) -> Self {
        if self.colors.len() > 1 {
            self.colors.retain(|c| *c != color);
            self.roles.retain(|(_, c)| *c != color);
            self.pins.retain(|(_, c)| *c != color);
        }
        self
    }

    /// Source colours that must stay as they are.
    #[must_use]
    pub fn protecting(mut self, protect: impl IntoIterator<Item = Rgb8>) -> Self {
        self.protect = protect.into_iter().collect();
        self.protect.sort();
        self.protect.dedup();
        self
    }

    fn require(&self, color: Rgb8, what: impl FnOnce() -> String) -> Result<(), PaletteError> {
        if self.colors.contains(&color) {
            Ok(())
        } else {
            Err(PaletteError::Foreign { name: self.name.clone(), what: what(), color })
        }
    }

    /// The palette's name, not blank.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// What the palette is for, in words.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }
    /// The colours, distinct, in the order given.
    pub fn colors(&self) -> &[Rgb8] {
        &self.colors
    }
    /// Explicit roles, sorted by role.
    pub fn roles(&self) -> &[(Role, Rgb8)] {
        &self.roles
    }
    /// Pins: source colour, palette colour.
    pub fn pins(&self) -> &[(Rgb8, Rgb8)] {
        &self.pins
    }
    /// Source colours that stay.
    pub fn protect(&self) -> &[Rgb8] {
        &self.protect
    }
}
