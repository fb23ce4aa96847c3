//! The sun and its four large planets, simulated in steps. The masses, positions and velocities are
//! from the Computer Language Benchmarks Game.

#![no_main]

use std::f64::consts::PI;

const STEPS: usize = 1_500_000;
const STEP_DAYS: f64 = 0.01;
const SOLAR_MASS: f64 = 4.0 * PI * PI;
const YEAR_DAYS: f64 = 365.24;

#[derive(Clone, Copy)]
struct Body {
    place: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

/// Positions in astronomical units, velocities in such units a day, masses in the sun's.
#[rustfmt::skip]
const BODIES: [([f64; 3], [f64; 3], f64); 5] = [
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1.0),
    ([4.841_431_442_464_721, -1.160_320_044_027_428_4, -0.103_622_044_471_123_11],
     [0.001_660_076_642_744_037, 0.007_699_011_184_197_404, -0.000_069_046_001_697_206_3], 0.000_954_791_938_424_326_6),
    ([8.343_366_718_244_58, 4.124_798_564_124_305, -0.403_523_417_114_321],
     [-0.002_767_425_107_268_624, 0.004_998_528_012_349_172, 0.000_023_041_729_757_376_393], 0.000_285_885_980_666_130_8),
    ([12.894_369_562_139_131, -15.111_151_401_698_631, -0.223_307_578_892_655_74],
     [0.002_964_601_375_647_616, 0.002_378_471_739_594_809_5, -0.000_029_658_956_854_023_756], 0.000_043_662_440_433_515_63),
    ([15.379_697_114_850_917, -25.919_314_609_987_964, 0.179_258_772_950_371_18],
     [0.002_680_677_724_903_893, 0.001_628_241_700_382_423, -0.000_095_159_225_451_971_59], 0.000_051_513_890_204_661_145),
];

/// Returns the bodies. The sun moves so that the total momentum is zero.
fn bodies() -> [Body; 5] {
    let mut bodies = BODIES.map(|(place, speed, mass)| Body {
        place,
        speed: speed.map(|speed| speed * YEAR_DAYS),
        mass: mass * SOLAR_MASS,
    });
    for axis in 0..3 {
        let momentum: f64 = bodies.iter().map(|body| body.speed[axis] * body.mass).sum();
        bodies[0].speed[axis] = -momentum / SOLAR_MASS;
    }
    bodies
}

fn advance(bodies: &mut [Body; 5]) {
    for i in 0..bodies.len() {
        let (before, behind) = bodies.split_at_mut(i + 1);
        let body = &mut before[i];
        for other in behind {
            let apart: [f64; 3] = std::array::from_fn(|axis| body.place[axis] - other.place[axis]);
            let squared = apart.iter().map(|distance| distance * distance).sum::<f64>();
            let pull = STEP_DAYS / (squared * squared.sqrt());
            for (axis, distance) in apart.into_iter().enumerate() {
                body.speed[axis] -= distance * other.mass * pull;
                other.speed[axis] += distance * body.mass * pull;
            }
        }
    }
    for body in bodies {
        for axis in 0..3 {
            body.place[axis] += STEP_DAYS * body.speed[axis];
        }
    }
}

fn energy(bodies: &[Body; 5]) -> f64 {
    let mut energy = 0.0;
    for (i, body) in bodies.iter().enumerate() {
        energy += 0.5 * body.mass * body.speed.iter().map(|speed| speed * speed).sum::<f64>();
        for other in &bodies[i + 1..] {
            let squared: f64 = (0..3).map(|axis| (body.place[axis] - other.place[axis]).powi(2)).sum();
            energy -= body.mass * other.mass / squared.sqrt();
        }
    }
    energy
}

fn nbody() -> [u8; 16] {
    let mut bodies = bodies();
    let mut checksum = [0; 16];
    checksum[..8].copy_from_slice(&energy(&bodies).to_le_bytes());
    for _ in 0..STEPS {
        advance(&mut bodies);
    }
    checksum[8..].copy_from_slice(&energy(&bodies).to_le_bytes());
    checksum
}

kernels::run!(nbody);
