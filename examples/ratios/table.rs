//! The rows and how they are printed.

/// Whether a target was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    NotMet,
    /// Could not be measured here.
    Skipped,
    /// Has no target.
    Noted,
}

impl Verdict {
    pub fn of(met: bool) -> Self {
        if met { Self::Met } else { Self::NotMet }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "NOT met",
            Self::Skipped => "skipped",
            Self::Noted => "–",
        }
    }
}

/// One figure.
pub struct Row {
    /// The letter that `--only` takes, in lower case.
    pub figure: char,
    pub name: String,
    pub measured: String,
    pub target: String,
    pub verdict: Verdict,
    /// What was measured, and the figures behind a ratio.
    pub how: String,
}

impl Row {
    pub fn skipped(figure: char, name: &str, target: &str, why: &str) -> Self {
        Self {
            figure,
            name: name.into(),
            measured: "–".into(),
            target: target.into(),
            verdict: Verdict::Skipped,
            how: why.into(),
        }
    }
}

pub fn print_markdown(facts: &[String], rows: &[Row]) {
    for fact in facts {
        println!("- {fact}");
    }
    println!("\n| | figure | measured | target | | how |\n|---|---|---|---|---|---|");
    for row in rows {
        let Row { figure, name, measured, target, verdict, how } = row;
        println!("| {figure} | {name} | {measured} | {target} | {} | {how} |", verdict.word());
    }
}

pub fn print_text(facts: &[String], rows: &[Row]) {
    for fact in facts {
        println!("{fact}");
    }
    let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
    let (name, measured, target) = (width(|r| &r.name), width(|r| &r.measured), width(|r| &r.target));
    println!();
    for row in rows {
        println!(
            "{}  {:name$}  {:>measured$}  {:target$}  {:7}  {}",
            row.figure,
            row.name,
            row.measured,
            row.target,
            row.verdict.word(),
            row.how
        );
    }
}
