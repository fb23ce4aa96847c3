(module
  (type (;0;) (func (param f64 f64 i64) (result f64 i64)))
  (type (;1;) (func (param f64 i32 i64) (result f64 i64)))
  (type (;2;) (func (param i32 i32 i64) (result i64)))
  (type (;3;) (func (param i32 i64) (result i64)))
  (type (;4;) (func (param i32 f64 f64 i64) (result i32 f64 f64 i64)))
  (type (;5;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 5)))
  (memory (;0;) 1)
  (export "compute_start_gas_4096" (memory 0))
  (func (;1;) (type 0) (param f64 f64 i64) (result f64 i64)
    (local f64)
    local.get 2
    i64.const 32
    i64.sub
    local.set 2
    block (result f64) ;; label = @1
      local.get 0
      local.get 0
      f64.mul
      local.get 1
      local.get 1
      f64.mul
      f64.add
      f64.sqrt
      local.tee 3
      local.get 3
      f64.ge
      (@metadata.code.branch_hint "\01")
      if ;; label = @2
      else
        f64.const nan (;=NaN;)
        local.set 3
      end
      local.get 3
    end
    local.get 2
  )
  (func (;2;) (type 1) (param f64 i32 i64) (result f64 i64)
    (local f64 f64)
    local.get 2
    i64.const 1073741824
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 1
      local.get 3
      local.get 0
      local.get 2
      call 5
      local.set 2
      local.set 0
      local.set 3
      local.set 1
    end
    block (result f64) ;; label = @1
      loop ;; label = @2
        local.get 2
        i64.const 20
        i64.sub
        local.set 2
        local.get 2
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        (@metadata.code.branch_hint "\00")
        if ;; label = @3
          local.get 1
          local.get 3
          local.get 0
          local.get 2
          call 5
          local.set 2
          local.set 0
          local.set 3
          local.set 1
        end
        local.get 3
        local.get 0
        f64.mul
        f64.const 0x1p+0 (;=1;)
        f64.add
        local.set 3
        local.get 1
        i32.const 1
        i32.sub
        local.tee 1
        br_if 0 (;@2;)
      end
      local.get 3
      local.tee 4
      local.get 4
      f64.ge
      (@metadata.code.branch_hint "\01")
      if ;; label = @2
      else
        f64.const nan (;=NaN;)
        local.set 4
      end
      local.get 4
    end
    local.get 2
  )
  (func (;3;) (type 2) (param i32 i32 i64) (result i64)
    (local f64)
    local.get 2
    i64.const 4
    i64.sub
    local.set 2
    block ;; label = @1
      local.get 1
      f64.load
      local.set 3
      local.get 0
      local.get 3
      f64.store
    end
    local.get 2
  )
  (func (;4;) (type 3) (param i32 i64) (result i64)
    (local v128)
    local.get 1
    i64.const 12
    i64.sub
    local.set 1
    block ;; label = @1
      local.get 0
      local.get 0
      v128.load
      v128.const i32x4 0x40000000 0x40000000 0x40000000 0x40000000
      f32x4.mul
      local.tee 2
      local.get 2
      f32x4.eq
      i32x4.all_true
      (@metadata.code.branch_hint "\01")
      if ;; label = @2
      else
        local.get 2
        v128.const i32x4 0x7fc00000 0x7fc00000 0x7fc00000 0x7fc00000
        local.get 2
        local.get 2
        f32x4.eq
        v128.bitselect
        local.set 2
      end
      local.get 2
      v128.store
    end
    local.get 1
  )
  (func (;5;) (type 4) (param i32 f64 f64 i64) (result i32 f64 f64 i64)
    local.get 0
    local.get 1
    local.get 2
    local.get 3
    call 0
  )
)

