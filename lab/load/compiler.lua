-- A real just-in-time compiler at work: loops that become machine code, new ones all the time, and callbacks from C.
local ffi = require("ffi")
ffi.cdef [[
  void qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *));
  int usleep(unsigned int microseconds);
]]

local numbers = ffi.new("int[64]")
local compare = ffi.cast("int (*)(const void *, const void *)", function(a, b)
  return ffi.cast("const int *", a)[0] - ffi.cast("const int *", b)[0]
end)

local round = 0
while true do
  round = round + 1
  local work = assert(loadstring("local sum = 0; for n = 1, 5000 do sum = sum + n % " .. round .. " end; return sum"))
  work()
  for n = 0, 63 do numbers[n] = (n * 37) % 64 end
  ffi.C.qsort(numbers, 64, 4, compare)
  ffi.C.usleep(100000)
end
