-- simulate/heap.lua: a binary heap: push, peek, pop the least by a comparison of its own.
---@class nebula.Heap
local Heap = {}
Heap.__index = Heap

---@param before fun(a: any, b: any): boolean
---@return nebula.Heap
function Heap.new(before) return setmetatable({ n = 0, before = before }, Heap) end

---@param item any
function Heap:push(item)
  local before = self.before
  local at = self.n + 1
  self.n = at
  while at > 1 do
    local parent = at // 2
    if not before(item, self[parent]) then break end
    self[at] = self[parent]
    at = parent
  end
  self[at] = item
end

---@return any? least
function Heap:peek() return self[1] end

---@return any? least
function Heap:pop()
  local n, before = self.n, self.before
  if n == 0 then return nil end
  local least, item = self[1], self[n]
  self[n] = nil
  n = n - 1
  self.n = n
  if n == 0 then return least end
  local at = 1
  while true do
    local child = at * 2
    if child > n then break end
    if child < n and before(self[child + 1], self[child]) then child = child + 1 end
    if not before(self[child], item) then break end
    self[at] = self[child]
    at = child
  end
  self[at] = item
  return least
end

return Heap
