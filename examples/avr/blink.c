// The LED of an Arduino Uno hangs on bit 5 of port B.
#define DDRB (*(volatile unsigned char *)0x24)
#define PORTB (*(volatile unsigned char *)0x25)

static void pause(void) {
  for (volatile unsigned long i = 0; i < 100000; i++) {
  }
}

__attribute__((naked, section(".vectors"))) void start(void) {
  __asm__ volatile("clr r1\n\tldi r28, 0xff\n\tldi r29, 0x08\n\tout 0x3e, r29\n\tout 0x3d, r28\n\trjmp main");
}

int main(void) {
  DDRB |= 1 << 5;
  for (;;) {
    PORTB ^= 1 << 5;
    pause();
  }
}
