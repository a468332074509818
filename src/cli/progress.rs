//! One progress bar for a run, with the time left.

use std::time::Duration;

use concept_worker::pipeline::event::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Follows a run on the screen. Shows nothing when standard error is no terminal or `hidden` is set.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(screen: &MultiProgress, hidden: bool) -> Self {
        if hidden {
            screen.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bar = screen.add(ProgressBar::no_length().with_message("reading the picture"));
        bar.set_style(style("{spinner} {msg}  {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Takes in what happened; called from any thread.
    pub fn observe(&self, event: Event) {
        match event {
            Event::Stage(_) => {}
            Event::Planned { files } => {
                self.0.set_style(style("{bar:32} {pos}/{len}  {elapsed}, {eta} left  {wide_msg}"));
                self.0.set_message("");
                self.0.set_length(files.len() as u64);
                self.0.reset_eta();
            }
            Event::Made { object, .. } => {
                self.0.set_message(object);
                self.0.inc(1);
            }
            // The reasons are told together at the end.
            Event::Failed { name, .. } => {
                self.0.set_message(format!("{name} failed"));
                self.0.inc(1);
            }
        }
    }

    /// Clears the bar away.
    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours and valid; a bar that looks plain is better than none.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
