//! Many apps in the background: the daemon that keeps them, and the commands that speak to it.

mod control;
mod day;
mod disk;
mod fate;
mod files;
mod forms;
mod keys;
mod kinds;
mod monit;
mod narrow;
mod output;
mod own;
mod pm2;
mod startup;
mod turns;
