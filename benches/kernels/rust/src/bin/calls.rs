//! Calls of every kind: deep recursion, trees of boxes, and methods of trait objects.

#![no_main]

use kernels::{Noise, mixed};

/// Takeuchi's function, with the arguments of the Lisp benchmark.
fn tak(x: i32, y: i32, z: i32) -> i32 {
    if y >= x { z } else { tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y)) }
}

struct Tree {
    value: u64,
    children: Option<(Box<Tree>, Box<Tree>)>,
}

impl Tree {
    fn grown(noise: &mut Noise, height: u32) -> Self {
        let value = noise.next_u64();
        let mut child = || Box::new(Self::grown(noise, height - 1));
        let children = (height > 0).then(|| (child(), child()));
        Self { value, children }
    }

    fn sum(&self) -> u64 {
        let (left, right) = self.children.as_ref().map_or((0, 0), |(left, right)| (left.sum(), right.sum()));
        self.value.wrapping_add(left).wrapping_add(right.rotate_left(1))
    }
}

trait Expression {
    fn value(&self, x: i64) -> i64;
}

struct Variable;
struct Constant(i64);
struct Sum(Box<dyn Expression>, Box<dyn Expression>);
struct Product(Box<dyn Expression>, Box<dyn Expression>);
struct Choice(Box<dyn Expression>, Box<dyn Expression>, Box<dyn Expression>);

impl Expression for Variable {
    fn value(&self, x: i64) -> i64 {
        x
    }
}

impl Expression for Constant {
    fn value(&self, _x: i64) -> i64 {
        self.0
    }
}

impl Expression for Sum {
    fn value(&self, x: i64) -> i64 {
        self.0.value(x).wrapping_add(self.1.value(x))
    }
}

impl Expression for Product {
    fn value(&self, x: i64) -> i64 {
        self.0.value(x).wrapping_mul(self.1.value(x))
    }
}

impl Expression for Choice {
    fn value(&self, x: i64) -> i64 {
        if self.0.value(x) & 1 == 0 { self.1.value(x) } else { self.2.value(x) }
    }
}

fn expression(noise: &mut Noise, height: u32) -> Box<dyn Expression> {
    if height == 0 {
        return if noise.below(2) == 0 { Box::new(Variable) } else { Box::new(Constant(i64::from(noise.below(100)))) };
    }
    let kind = noise.below(3);
    let mut part = || expression(noise, height - 1);
    match kind {
        0 => Box::new(Sum(part(), part())),
        1 => Box::new(Product(part(), part())),
        _ => Box::new(Choice(part(), part(), part())),
    }
}

const TREES: u32 = 80;
const TREE_HEIGHT: u32 = 13;
const EXPRESSION_HEIGHT: u32 = 10;
const EVALUATIONS: i64 = 2500;

fn calls() -> [u8; 8] {
    let mut noise = Noise::new(9);
    let checksum = mixed(0, u64::from(tak(24, 16, 8).unsigned_abs()));
    let checksum = (0..TREES).fold(checksum, |checksum, _| mixed(checksum, Tree::grown(&mut noise, TREE_HEIGHT).sum()));
    let expression = expression(&mut noise, EXPRESSION_HEIGHT);
    (0..EVALUATIONS).fold(checksum, |checksum, x| mixed(checksum, expression.value(x).cast_unsigned())).to_le_bytes()
}

kernels::run!(calls);
