(module
  (type (;0;) (func (param i32 i32 i64) (result i32 i64)))
  (type (;1;) (func (param i32 i64) (result i32 i64)))
  (type (;2;) (func (param i64) (result i32 i64)))
  (type (;3;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 3)))
  (func (;1;) (type 0) (param i32 i32 i64) (result i32 i64)
    local.get 2
    i64.const 2
    i64.sub
    local.set 2
    block (result i32) ;; label = @1
      local.get 0
      local.get 1
      i32.mul
      i32.const 7
      i32.add
    end
    local.get 2
  )
  (func (;2;) (type 1) (param i32 i64) (result i32 i64)
    local.get 1
    i64.const 2
    i64.sub
    local.set 1
    block (result i32) ;; label = @1
      block ;; label = @2
        local.get 0
        i32.eqz
        br_if 0 (;@2;)
        local.get 1
        i64.const 2
        i64.sub
        local.set 1
        local.get 0
        i32.const 10
        i32.lt_s
        if ;; label = @3
          local.get 1
          i64.const 6
          i64.sub
          local.set 1
          i32.const 1000
          local.get 0
          i32.div_s
          local.set 0
        else
          local.get 1
          i64.const 1
          i64.sub
          local.set 1
          local.get 0
          i32.const 1
          i32.add
          local.set 0
        end
        local.get 1
        i64.const 2
        i64.sub
        local.set 1
        local.get 0
        i32.const 5
        i32.xor
        local.set 0
      end
      local.get 1
      i64.const 1
      i64.sub
      local.set 1
      local.get 0
      i32.const 1
      i32.shl
    end
    local.get 1
  )
  (func (;3;) (type 1) (param i32 i64) (result i32 i64)
    block (result i32) ;; label = @1
      local.get 0
      br 0 (;@1;)
    end
    local.get 1
  )
  (func (;4;) (type 2) (param i64) (result i32 i64)
    local.get 0
    i64.const 1649267441672
    i64.sub
    local.set 0
    local.get 0
    i64.const -9223372035781033984
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      call 0
      local.set 0
    end
    block (result i32) ;; label = @1
      i32.const 2
      i32.const 3
      local.get 0
      call 1
      local.set 0
      i32.const 4
      local.get 0
      call 2
      local.set 0
      i32.add
    end
    local.get 0
    i64.const 1649267441664
    i64.add
  )
)

