(module
  (type (;0;) (func (param i64 i64) (result i64 i64)))
  (type (;1;) (func (param i64 i64) (result i64 i64)))
  (type (;2;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 2)))
  (func (;1;) (type 0) (param i64 i64) (result i64 i64)
    local.get 1
    i64.const 1
    i64.sub
    local.set 1
    block (result i64) ;; label = @1
      local.get 0
      local.get 0
      i64.mul
    end
    local.get 1
  )
  (func (;2;) (type 0) (param i64 i64) (result i64 i64)
    local.get 1
    i64.const 2061584302082
    i64.sub
    local.set 1
    local.get 1
    i64.const -9223372035781033984
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      local.get 1
      call 3
      local.set 1
      local.set 0
    end
    block (result i64) ;; label = @1
      local.get 0
      i64.eqz
      if ;; label = @2
        i64.const 1
        br 1 (;@1;)
      end
      local.get 1
      i64.const 9
      i64.sub
      local.set 1
      local.get 0
      local.get 1
      call 1
      local.set 1
      local.get 0
      i64.const 1
      i64.sub
      local.get 1
      call 2
      local.set 1
      i64.add
    end
    local.get 1
    i64.const 2061584302080
    i64.add
  )
  (func (;3;) (type 1) (param i64 i64) (result i64 i64)
    local.get 0
    local.get 1
    call 0
  )
)

