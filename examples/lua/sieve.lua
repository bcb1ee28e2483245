-- Primes below a hundred, to a file; and an error that is caught, which needs setjmp.
local composite, primes = {}, {}
for n = 2, 99 do
  if not composite[n] then
    primes[#primes + 1] = n
    for multiple = n * n, 99, n do composite[multiple] = true end
  end
end
local file = assert(io.open(arg[1], "w"))
file:write(table.concat(primes, " "), "\n")
file:close()
local ok, problem = pcall(error, "caught")
print(_VERSION, #primes .. " primes", ok, problem)
