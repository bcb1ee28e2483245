#!/usr/bin/env bash
# Blink for an ATmega328P: compiler, assembler, linker, and the file that is written to the chip.
. "$(dirname "$0")/../lib.sh"
toolchain avr-gcc
cp "$example"/{blink.c,m328.ld} .
echo "== avr-gcc"
run avr-gcc --output blink.s -- avr-cc1 -quiet -mmcu=avr5 -Os -ffreestanding blink.c -o blink.s
run avr-gcc --output blink.o -- avr-as -mmcu=avr5 -o blink.o blink.s
run avr-gcc --output blink.elf -- avr-ld -mavr5 -T m328.ld -o blink.elf blink.o
run avr-gcc --output blink.hex -- avr-objcopy -O ihex -j .text blink.elf blink.hex
cat blink.hex
digests blink.s blink.o blink.elf blink.hex
