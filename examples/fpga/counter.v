// Blinks: the top bit of a counter that turns over about five times in a second at 12 MHz.
module counter(input clk, output led);
  reg [20:0] count = 0;
  always @(posedge clk) count <= count + 1;
  assign led = count[20];
endmodule
