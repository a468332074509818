//! stub
use super::model::LabPlanes;
/// pairs
pub struct NeighborPairs { pairs: Vec<(u32,u32)> }
impl NeighborPairs {
    /// new
    pub fn new(colors: &[u32], limit: usize) -> Self {
        let ranks = super::unique::Ranks::of(colors);
        let mut all = Vec::new();
        for (i, &c) in colors.iter().enumerate() {
            let [r,g,b,_] = c.to_le_bytes();
            let k = (r as usize) << 16 | (g as usize) << 8 | b as usize;
            if r < 255 && let Some(j) = ranks.find(k + 65536) { all.push((i as u32, j)); }
            if g < 255 && let Some(j) = ranks.find(k + 256) { all.push((i as u32, j)); }
            if b < 255 && let Some(j) = ranks.find(k + 1) { all.push((i as u32, j)); }
        }
        let step = all.len().div_ceil(limit).max(1);
        Self { pairs: all.into_iter().step_by(step).collect() }
    }
    /// len
    pub fn len(&self) -> usize { self.pairs.len() }
    /// iter
    pub fn iter(&self) -> impl Iterator<Item=(u32,u32)> + '_ { self.pairs.iter().copied() }
}
/// gain
pub fn predicted_gain(before: &LabPlanes, after: &LabPlanes, pairs: &[(u32,u32)]) -> f32 {
    let mut gains: Vec<f32> = pairs.iter().map(|&(i,j)| {
        let d = before.get(i as usize).distance(before.get(j as usize)).max(0.3);
        after.get(i as usize).distance(after.get(j as usize)) / d
    }).collect();
    if gains.is_empty() { return 1.0; }
    let at = ((gains.len() as f64 * 0.999) as usize).min(gains.len() - 1);
    *gains.select_nth_unstable_by(at, f32::total_cmp).1
}
